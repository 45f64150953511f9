//! Derive macros for row types. Use them by the crate `rows`, which explains them.

mod names;
mod structure;

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::quote;
use syn::{DeriveInput, Error, parse_macro_input};

use structure::Structure;

/// Derives a row type: its columns and cells come from the fields of a struct. The struct must read
/// itself from a message, as `rows::FromMessage` says.
///
/// `#[row(name = "..")]` at a field gives its column another name.
#[proc_macro_derive(Row, attributes(row))]
pub fn derive_row(input: TokenStream) -> TokenStream {
    expand(&parse_macro_input!(input), Kind::Row).unwrap_or_else(Error::into_compile_error).into()
}

/// Derives a record: a struct that is the value of a field of a row type, or of another record.
///
/// `#[row(name = "..")]` at a field gives its column another name.
#[proc_macro_derive(Record, attributes(row))]
pub fn derive_record(input: TokenStream) -> TokenStream {
    expand(&parse_macro_input!(input), Kind::Record)
        .unwrap_or_else(Error::into_compile_error)
        .into()
}

/// Kind of a struct that has columns.
#[derive(Clone, Copy)]
enum Kind {
    Row,
    Record,
}

fn expand(input: &DeriveInput, kind: Kind) -> syn::Result<Tokens> {
    let structure = Structure::of(input)?;
    let (fields, name) = (structure.fields(), &input.ident);
    let more = match kind {
        Kind::Row => quote! {
            impl ::rows::Row for #name {
                const REASONS: &[::rows::Reason] = <Self as ::rows::FromMessage>::REASONS;

                fn columns() -> ::std::vec::Vec<::rows::column::Column> {
                    <Self as ::rows::field::Fields>::columns()
                }

                fn read(
                    message: &::rows::Message,
                    envelope: &::rows::Envelope,
                ) -> ::std::result::Result<Self, ::rows::Error> {
                    <Self as ::rows::FromMessage>::from_message(message, envelope)
                }

                fn cells(self) -> ::std::vec::Vec<::rows::cell::Cell> {
                    <Self as ::rows::field::Fields>::cells(self)
                }
            }
        },
        Kind::Record => quote! {
            impl ::rows::field::Scalar for #name {
                fn column(name: &str) -> ::rows::column::Column {
                    ::rows::column::Column::record(name, <Self as ::rows::field::Fields>::columns())
                }

                fn cell(self) -> ::rows::cell::Cell {
                    ::rows::cell::Cell::Record(<Self as ::rows::field::Fields>::cells(self))
                }
            }
        },
    };
    Ok(quote! { #fields #more })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(code: &str) -> String {
        let input = syn::parse_str(code).unwrap();
        let fault = expand(&input, Kind::Row).map(|code| code.to_string()).unwrap_err();
        fault.into_iter().map(|error| error.to_string()).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn whatever_has_no_columns_is_refused() {
        for (code, right) in [
            ("enum A { B }", "must be a struct with named fields"),
            ("union A { b: u8 }", "must be a struct with named fields"),
            ("struct A(String);", "must be a struct with named fields"),
            ("struct A;", "must be a struct with named fields"),
            ("struct A {}", "must have a field"),
            ("struct A<T> { t: T }", "must not have parameters"),
            ("struct A<'a> { t: &'a str }", "must not have parameters"),
        ] {
            assert_eq!(fault(code), right, "{code}");
        }
    }

    #[test]
    fn names_that_bigquery_refuses_are_named() {
        for (code, right) in [
            ("struct A { über: String }", "must be letters, digits and `_`, is `über`"),
            ("struct A { _table_x: String }", "`_table_x` begins as BigQuery's own names do"),
            (
                "struct A { a: String, b: String, #[row(name = \"A\")] c: i64 }",
                "`A` is there twice; BigQuery ignores case",
            ),
            (
                "struct A { #[row(name = \"1a\")] a: String }",
                "must not begin with a digit, is `1a`",
            ),
            (
                "struct A { #[row(name = \"\")] a: String }",
                "must be letters, digits and `_`, is ``",
            ),
            ("struct A { a: String, #[row(rename = \"b\")] c: i64 }", "must be `name = \"..\"`"),
            ("struct A { #[row(name = 1)] c: i64 }", "expected string literal"),
        ] {
            assert_eq!(fault(code), right, "{code}");
        }
        let all = fault("struct A { über: String, a: i64, #[row(name = \"a\")] b: i64 }");
        assert!(all.contains("über") && all.contains("`a` is there twice"), "{all}");
    }

    #[test]
    fn a_raw_name_is_the_name_without_its_mark() {
        let input = syn::parse_str("struct A { r#type: String }").unwrap();

        let code = expand(&input, Kind::Record).unwrap().to_string();

        assert!(code.contains("(\"type\")"), "{code}");
    }
}
