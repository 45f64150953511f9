//! Names of functions.

use super::super::schema::FieldType;

/// Functions by the type of their result. For other functions the type comes from the value.
pub(super) const RESULTS: [(FieldType, &[&str]); 9] = [
    (
        FieldType::Integer,
        &[
            "APPROX_COUNT_DISTINCT",
            "ARRAY_LENGTH",
            "BYTE_LENGTH",
            "CHAR_LENGTH",
            "CHARACTER_LENGTH",
            "COUNT",
            "COUNTIF",
            "DATE_DIFF",
            "DATETIME_DIFF",
            "DENSE_RANK",
            "DIV",
            "EXTRACT",
            "INSTR",
            "LENGTH",
            "OCTET_LENGTH",
            "RANK",
            "ROW_NUMBER",
            "STRPOS",
            "TIME_DIFF",
            "TIMESTAMP_DIFF",
            "UNIX_DATE",
            "UNIX_MICROS",
            "UNIX_MILLIS",
            "UNIX_SECONDS",
        ],
    ),
    (
        FieldType::Float,
        &["AVG", "EXP", "LN", "LOG", "LOG10", "POW", "POWER", "SAFE_DIVIDE", "SQRT"],
    ),
    (
        FieldType::Boolean,
        &["CONTAINS_SUBSTR", "ENDS_WITH", "EXISTS", "LOGICAL_AND", "LOGICAL_OR", "STARTS_WITH"],
    ),
    (
        FieldType::String,
        &[
            "ARRAY_TO_STRING",
            "CONCAT",
            "FORMAT_DATE",
            "FORMAT_DATETIME",
            "FORMAT_TIME",
            "FORMAT_TIMESTAMP",
            "GENERATE_UUID",
            "JSON_EXTRACT_SCALAR",
            "JSON_VALUE",
            "LOWER",
            "LTRIM",
            "REPLACE",
            "RTRIM",
            "STRING_AGG",
            "SUBSTR",
            "SUBSTRING",
            "TO_JSON_STRING",
            "TRIM",
            "UPPER",
        ],
    ),
    (FieldType::Json, &["PARSE_JSON", "TO_JSON"]),
    (
        FieldType::Timestamp,
        &[
            "CURRENT_TIMESTAMP",
            "TIMESTAMP",
            "TIMESTAMP_ADD",
            "TIMESTAMP_MICROS",
            "TIMESTAMP_MILLIS",
            "TIMESTAMP_SECONDS",
            "TIMESTAMP_SUB",
            "TIMESTAMP_TRUNC",
        ],
    ),
    (FieldType::Date, &["CURRENT_DATE", "DATE", "DATE_ADD", "DATE_SUB", "DATE_TRUNC"]),
    (
        FieldType::Datetime,
        &["CURRENT_DATETIME", "DATETIME", "DATETIME_ADD", "DATETIME_SUB", "DATETIME_TRUNC"],
    ),
    (FieldType::Time, &["CURRENT_TIME", "TIME", "TIME_ADD", "TIME_SUB", "TIME_TRUNC"]),
];
/// Functions whose result has the type of one argument, with the index of that argument.
pub(super) const SAME: [(&str, usize); 14] = [
    ("ABS", 0),
    ("ANY_VALUE", 0),
    ("COALESCE", 0),
    ("FIRST_VALUE", 0),
    ("GREATEST", 0),
    ("IF", 1),
    ("IFNULL", 0),
    ("LAG", 0),
    ("LAST_VALUE", 0),
    ("LEAD", 0),
    ("LEAST", 0),
    ("MAX", 0),
    ("MIN", 0),
    ("NULLIF", 0),
];
/// Keywords that are not names of columns and functions.
pub(super) const KEYWORDS: [&str; 53] = [
    "ALL",
    "AND",
    "ANY",
    "AS",
    "ASC",
    "BETWEEN",
    "BY",
    "CASE",
    "CROSS",
    "DESC",
    "DISTINCT",
    "ELSE",
    "END",
    "ESCAPE",
    "EXCEPT",
    "EXISTS",
    "FALSE",
    "FOLLOWING",
    "FROM",
    "FULL",
    "GROUP",
    "HAVING",
    "IN",
    "INNER",
    "INTERSECT",
    "INTERVAL",
    "INTO",
    "IS",
    "JOIN",
    "LEFT",
    "LIKE",
    "LIMIT",
    "NOT",
    "NULL",
    "NULLS",
    "ON",
    "OR",
    "ORDER",
    "OUTER",
    "OVER",
    "PARTITION",
    "RANGE",
    "RIGHT",
    "ROWS",
    "SELECT",
    "SET",
    "THEN",
    "TRUE",
    "UNION",
    "USING",
    "VALUES",
    "WHEN",
    "WHERE",
];
/// Other functions that are supported.
const OTHERS: &str = "
    ACOS ACOSH ARRAY_AGG ASIN ASINH ATAN ATAN2 ATANH CEIL CEILING COS COSH CUME_DIST FLOOR
    GENERATE_ARRAY JSON_EXTRACT JSON_QUERY MOD NTH_VALUE NTILE PERCENT_RANK ROUND SIGN SIN SINH
    SPLIT SUM TAN TANH TRUNC
";
/// Functions of BigQuery that are not supported.
const MISSING: &str = "
    APPENDS APPROX_QUANTILES APPROX_TOP_COUNT APPROX_TOP_SUM ARRAY_CONCAT ARRAY_CONCAT_AGG
    ARRAY_FILTER ARRAY_FIRST ARRAY_FIRST_N ARRAY_INCLUDES ARRAY_LAST ARRAY_REVERSE RIGHT
    ARRAY_SLICE ARRAY_TRANSFORM ASCII BAG_OF_WORDS BIT_AND BIT_COUNT BIT_OR BIT_XOR BOOL CBRT CHANGES
    CHR CODE_POINTS_TO_BYTES CODE_POINTS_TO_STRING COLLATE CORR COSINE_DISTANCE COT COTH 
    COVAR_POP COVAR_SAMP CSC CSCH CUBE CURRENT_USER DATE_BUCKET DATE_FROM_UNIX_DATE DATETIME_BUCKET
    EDIT_DISTANCE ERROR EUCLIDEAN_DISTANCE EXTERNAL_QUERY FARM_FINGERPRINT FLOAT64 FORMAT FROM_BASE32
    FROM_BASE64 FROM_HEX GAP_FILL GENERATE_DATE_ARRAY GENERATE_RANGE_ARRAY GENERATE_TIMESTAMP_ARRAY
    GROUPING IEEE_DIVIDE INITCAP INT64 IS_INF IS_NAN JSON_ARRAY
    JSON_ARRAY_APPEND JSON_ARRAY_INSERT JSON_EXTRACT_ARRAY JSON_EXTRACT_STRING_ARRAY JSON_FLATTEN
    JSON_KEYS JSON_OBJECT JSON_QUERY_ARRAY JSON_REMOVE JSON_SET JSON_STRIP_NULLS JSON_TYPE
    JSON_VALUE_ARRAY JUSTIFY_DAYS JUSTIFY_HOURS JUSTIFY_INTERVAL LAST_DAY LAX_BOOL LAX_FLOAT64
    LAX_INT64 LAX_STRING LEFT LPAD MAKE_INTERVAL MAX_BY MD5 MIN_BY NORMALIZE NORMALIZE_AND_CASEFOLD
    NULLIFERROR NULLIFZERO ORDINAL OFFSET PARSE_BIGNUMERIC PARSE_DATE PARSE_DATETIME PARSE_NUMERIC
    PARSE_TIME PARSE_TIMESTAMP PERCENTILE_CONT PERCENTILE_DISC RAND RANGE_BUCKET RANGE_CONTAINS
    RANGE_END RANGE_INTERSECT RANGE_OVERLAPS RANGE RANGE_SESSIONIZE RANGE_START REGEXP_CONTAINS
    REGEXP_EXTRACT REGEXP_EXTRACT_ALL REGEXP_INSTR REGEXP_REPLACE REGEXP_SUBSTR REPEAT REVERSE RIGHT
    ROLLUP RPAD S2_CELLIDFROMPOINT S2_COVERINGCELLIDS SAFE_ADD SAFE_CONVERT_BYTES_TO_STRING
    SAFE_MULTIPLY SAFE_NEGATE SAFE_OFFSET SAFE_ORDINAL SAFE_SUBTRACT SEARCH SEC SECH SESSION_USER
    SHA1 SHA256 SHA512 SOME SOUNDEX STDDEV STDDEV_POP STDDEV_SAMP STRING TEXT_ANALYZE
    TF_IDF TIME_BUCKET TIMESTAMP_BUCKET TO_BASE32 TO_BASE64 TO_CODE_POINTS TO_HEX TRANSLATE
    UNICODE VAR_POP VAR_SAMP VARIANCE VECTOR_SEARCH WEEK ZEROIFNULL
";
/// Functions whose arguments may have any type, also BYTES.
pub(super) const OF_ANY_TYPE: [&str; 13] = [
    "ANY_VALUE",
    "APPROX_COUNT_DISTINCT",
    "ARRAY_AGG",
    "COALESCE",
    "COUNT",
    "FIRST_VALUE",
    "IF",
    "IFNULL",
    "LAG",
    "LAST_VALUE",
    "LEAD",
    "NTH_VALUE",
    "NULLIF",
];

/// Returns true for a function of BigQuery that is not supported. The name is in upper case.
pub(super) fn is_missing(name: &str) -> bool {
    name.starts_with("ST_") || MISSING.split_whitespace().any(|one| one == name)
}

/// Returns true for a supported function. The name is in upper case.
pub(super) fn is_supported(name: &str) -> bool {
    RESULTS.iter().any(|(_, names)| names.contains(&name))
        || SAME.iter().any(|(one, _)| *one == name)
        || OTHERS.split_whitespace().any(|one| one == name)
}
