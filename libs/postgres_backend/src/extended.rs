//! Statements and portals of the extended query protocol, as far as drivers need them for plain commands: by name,
//! without parameters (PostgreSQL documentation, "Extended Query"). Pure: `serve` sends the answers.

use std::collections::HashMap;

use pq_proto::frontend::{Bind, Parse};
use pq_proto::{ErrorResponse, SqlState, Target, Text};

/// Most statements, and most portals, that one connection may have.
const PREPARED_MAX: usize = 64;

/// The statements and portals of a connection.
#[derive(Debug, Default)]
pub(crate) struct Extended {
    statements: HashMap<Text, Prepared>,
    portals: HashMap<Text, Prepared>,
}

/// A statement or a portal: without parameters both hold the same.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    pub(crate) query: Text,
    /// The client has got the columns from Describe, so they are not sent again when the command runs.
    pub(crate) described: bool,
}

impl Extended {
    /// Creates a statement.
    pub(crate) fn parse(&mut self, parse: Parse) -> Result<(), ErrorResponse> {
        let Parse { statement, query, parameter_types } = parse;
        if !parameter_types.is_empty() {
            return Err(unsupported("parameters are not supported"));
        }
        if !statement.is_empty() && self.statements.contains_key(&statement) {
            let message = format!("prepared statement \"{}\" already exists", statement.to_str_lossy());
            return Err(ErrorResponse::error(SqlState(*b"42P05"), message));
        }
        insert(&mut self.statements, statement, Prepared { query, described: false })
    }

    /// Creates a portal from a statement.
    pub(crate) fn bind(&mut self, bind: Bind) -> Result<(), ErrorResponse> {
        if !bind.parameters.is_empty() {
            return Err(unsupported("parameters are not supported"));
        }
        if bind.result_formats.iter().any(|format| *format != 0) {
            return Err(unsupported("results in binary format are not supported"));
        }
        let prepared = self.statement(&bind.statement)?.clone();
        insert(&mut self.portals, bind.portal, prepared)
    }

    /// The statement or portal that `target` names; an error when there is none.
    pub(crate) fn target(&mut self, target: &Target) -> Result<&mut Prepared, ErrorResponse> {
        match target {
            Target::Statement(name) => self.statement(name),
            Target::Portal(name) => self.portal(name),
        }
    }

    /// The portal of this name; an error when there is none.
    pub(crate) fn portal(&mut self, name: &Text) -> Result<&mut Prepared, ErrorResponse> {
        self.portals.get_mut(name).ok_or_else(|| {
            let message = format!("portal \"{}\" does not exist", name.to_str_lossy());
            ErrorResponse::error(SqlState::INVALID_CURSOR_NAME, message)
        })
    }

    fn statement(&mut self, name: &Text) -> Result<&mut Prepared, ErrorResponse> {
        self.statements.get_mut(name).ok_or_else(|| {
            let message = format!("prepared statement \"{}\" does not exist", name.to_str_lossy());
            ErrorResponse::error(SqlState::INVALID_SQL_STATEMENT_NAME, message)
        })
    }

    /// Closes a statement or portal. It is no error when there is none.
    pub(crate) fn close(&mut self, target: &Target) {
        match target {
            Target::Statement(name) => drop(self.statements.remove(name)),
            Target::Portal(name) => drop(self.portals.remove(name)),
        }
    }

    /// Drops all portals: Sync ends the transaction, and portals end with it.
    pub(crate) fn sync(&mut self) {
        self.portals.clear();
    }
}

fn insert(map: &mut HashMap<Text, Prepared>, name: Text, prepared: Prepared) -> Result<(), ErrorResponse> {
    if map.len() >= PREPARED_MAX && !map.contains_key(&name) {
        let message = format!("more than {PREPARED_MAX} prepared statements or portals");
        return Err(ErrorResponse::error(SqlState::CONFIGURATION_LIMIT_EXCEEDED, message));
    }
    map.insert(name, prepared);
    Ok(())
}

fn unsupported(message: &str) -> ErrorResponse {
    ErrorResponse::error(SqlState::FEATURE_NOT_SUPPORTED, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str) -> Parse {
        Parse { statement: name.into(), query: "SHOW x".into(), parameter_types: Vec::new() }
    }

    #[test]
    fn only_the_unnamed_statement_is_replaced() {
        let mut extended = Extended::default();
        for (name, second_is_fine) in [("", true), ("s", false)] {
            extended.parse(parse(name)).unwrap();
            assert_eq!(extended.parse(parse(name)).is_ok(), second_is_fine, "{name:?}");
        }
    }

    #[test]
    fn number_of_statements_is_bounded() {
        let mut extended = Extended::default();
        for number in 0..PREPARED_MAX {
            extended.parse(parse(&number.to_string())).unwrap();
        }
        let refused = extended.parse(parse("one more")).unwrap_err();
        assert_eq!(refused.sqlstate, SqlState::CONFIGURATION_LIMIT_EXCEEDED);
        extended.close(&Target::Statement("0".into()));
        extended.parse(parse("one more")).unwrap();
    }
}
