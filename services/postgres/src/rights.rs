//! Rights of the login on the schema and the table, for `plan` and `check --online`.

use postgresql::identifier::quoted;
use service::tools::preflight::State;
use tokio_postgres::{Client, Error};

use crate::config::TableSettings;

/// Asks for the login, for what it may do with a schema, and for what it may do with a table. The table
/// is looked up in the catalogue, because a login without `USAGE` cannot name it.
///
/// `ON CONFLICT` reads the key, so writing needs `SELECT` too. Only an owner adds columns.
const QUERY: &str = "SELECT current_user::text, n.oid IS NOT NULL, \
     coalesce(has_schema_privilege(n.oid, 'USAGE'), false), \
     coalesce(has_schema_privilege(n.oid, 'CREATE'), false), \
     coalesce(has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'SELECT'), false), \
     coalesce(pg_has_role(c.relowner, 'USAGE'), false) \
     FROM (SELECT) AS one LEFT JOIN pg_namespace n ON n.nspname = $1 \
     LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = $2";

/// Rights of the login.
#[derive(Debug)]
pub(crate) struct Rights {
    login: String,
    schema: String,
    has_schema: bool,
    may_use: bool,
    may_create: bool,
    may_write: bool,
    is_owner: bool,
}

impl Rights {
    /// Asks the server.
    pub(crate) async fn read(client: &Client, table: &TableSettings) -> Result<Self, Error> {
        let row = client.query_one(QUERY, &[&table.schema, &table.name]).await?;
        Ok(Self {
            login: row.get(0),
            schema: table.schema.clone(),
            has_schema: row.get(1),
            may_use: row.get(2),
            may_create: row.get(3),
            may_write: row.get(4),
            is_owner: row.get(5),
        })
    }

    /// Returns why the table cannot even be looked at.
    pub(crate) fn obstacle(&self, table: &TableSettings) -> Option<State> {
        let (schema, login) = (quoted(&self.schema), quoted(&self.login));
        if !self.has_schema {
            return Some(State::Missing(format!(
                "there is no schema {} (table.schema): CREATE SCHEMA {schema} AUTHORIZATION {login}",
                table.schema
            )));
        }
        (!self.may_use).then(|| self.denied("USAGE", &format!("SCHEMA {schema}")))
    }

    /// Returns why the login cannot create the table, if it cannot.
    pub(crate) fn to_create(&self) -> Option<State> {
        let schema = format!("SCHEMA {}", quoted(&self.schema));
        (!self.may_create).then(|| self.denied("CREATE", &schema))
    }

    /// Returns why the login cannot write rows, if it cannot.
    pub(crate) fn to_write(&self) -> Option<State> {
        let denied = || State::Denied(format!("{} lacks INSERT and SELECT on it", self.login));
        (!self.may_write).then(denied)
    }

    /// Returns why the login cannot add columns, if it cannot.
    pub(crate) fn to_extend(&self) -> Option<State> {
        let denied = || {
            let login = &self.login;
            State::Denied(format!(
                "it lacks columns, and {login} does not own it, so {login} cannot add them"
            ))
        };
        (!self.is_owner).then(denied)
    }

    fn denied(&self, right: &str, object: &str) -> State {
        let login = &self.login;
        let grant = format!("GRANT {right} ON {object} TO {}", quoted(login));
        State::Denied(format!("{login} lacks {right} on the schema: {grant}"))
    }
}
