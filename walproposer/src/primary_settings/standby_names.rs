//! [`StandbyNames`]: value of `synchronous_standby_names`, parsed as PostgreSQL 14 to 18 parse it
//! (PostgreSQL documentation, "Replication", `synchronous_standby_names`).
//!
//! ```text
//! value  = list | n "(" list ")" | FIRST n "(" list ")" | ANY n "(" list ")"
//! list   = name { "," name }
//! name   = identifier | digits | "*" | a name in double quotes, with "" for a quote
//! ```
//!
//! FIRST and ANY are keywords in any case; a standby of that name is quoted. Names match in any case, quoted or not.
//! A list alone, and `n (…)`, mean FIRST. No IO: called by the verdict beside it.

use thiserror::Error;

/// Longest name of a standby: the server cuts an `application_name` off behind it (`NAMEDATALEN`).
const APPLICATION_NAME_BYTES_MAX: usize = 63;
/// Name that matches every standby, quoted or not.
const ANY_STANDBY: &str = "*";

/// A value that is not empty: which standbys a commit waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StandbyNames {
    /// How standbys are chosen among those that are connected.
    pub(crate) method: Method,
    /// Number of standbys that a commit waits for; at least 1.
    pub(crate) count: u64,
    /// The listed names, as written, without their quotes.
    pub(crate) names: Vec<String>,
}

/// How standbys are chosen among those that are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// Those that are listed first.
    First,
    /// Those that answer first.
    Any,
}

/// The text is no value of the setting. The server accepts none of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum StandbyNamesError {
    /// A character or word has no place where it stands.
    #[error("syntax error")]
    Syntax,
    /// A name in quotes has no end.
    #[error("unterminated quoted identifier")]
    UnterminatedQuote,
    /// A commit would wait for no standby.
    #[error("the number of standbys must be greater than zero")]
    Zero,
}

impl StandbyNames {
    /// Parses a value. `None` for the empty one: no commit waits for a standby.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>, StandbyNamesError> {
        if text.is_empty() {
            return Ok(None);
        }
        let tokens = tokens(text)?;

        let (method, tokens) = match tokens.as_slice() {
            [Token::First, rest @ ..] => (Some(Method::First), rest),
            [Token::Any, rest @ ..] => (Some(Method::Any), rest),
            all => (None, all),
        };
        let (count, listed) = match (method, tokens) {
            (_, [Token::Number(count), Token::Open, listed @ .., Token::Close]) => (count.as_str(), listed),
            (None, listed) => ("1", listed),
            (Some(_), _) => return Err(StandbyNamesError::Syntax),
        };

        let names = listed_names(listed)?;
        // Only digits: what does not fit is more than there can be standbys.
        let count = count.parse().unwrap_or(u64::MAX);
        if count == 0 {
            return Err(StandbyNamesError::Zero);
        }
        Ok(Some(Self { method: method.unwrap_or(Method::First), count, names }))
    }

    /// True when the standby `own` is listed, by its name or by `*`.
    pub(crate) fn lists(&self, own: &str) -> bool {
        let own = as_the_server_sees(own);
        self.names.iter().any(|name| name == ANY_STANDBY || name.eq_ignore_ascii_case(own))
    }

    /// True when no commit is acknowledged without the standby `own`, whatever other standbys are connected.
    ///
    /// Being listed is not enough. Whatever the method, a standby that is away is replaced by another listed one, so the
    /// others must be too few to release a commit. `*` stands for any number of them.
    pub(crate) fn every_commit_waits_for(&self, own: &str) -> bool {
        self.lists(own) && self.others(own).is_some_and(|others| (others.len() as u64) < self.count)
    }

    /// The other names, each once; `None` when `*` is among the names: then there may be any number of others.
    fn others(&self, own: &str) -> Option<Vec<String>> {
        if self.names.iter().any(|name| name == ANY_STANDBY) {
            return None;
        }
        let own = as_the_server_sees(own);
        let mut others: Vec<String> = self.names.iter().map(|name| name.to_ascii_lowercase()).collect();
        others.retain(|name| !name.eq_ignore_ascii_case(own));
        others.sort();
        others.dedup();
        Some(others)
    }
}

/// The part of a name that the server compares.
fn as_the_server_sees(name: &str) -> &str {
    let mut end = name.len().min(APPLICATION_NAME_BYTES_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

/// The name as it is written in the setting: quoted when it is no plain identifier.
pub(crate) fn quoted(name: &str) -> String {
    let is_keyword = name.eq_ignore_ascii_case("first") || name.eq_ignore_ascii_case("any");
    let mut characters = name.chars();
    let is_plain = characters.next().is_some_and(starts_identifier) && characters.all(continues_identifier);
    if is_plain && !is_keyword { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// The names of a list. A number is a name here.
fn listed_names(tokens: &[Token]) -> Result<Vec<String>, StandbyNamesError> {
    let entries = tokens.split(|token| *token == Token::Comma);
    let name = |entry: &[Token]| match entry {
        [Token::Name(name) | Token::Number(name)] => Ok(name.clone()),
        _ => Err(StandbyNamesError::Syntax),
    };
    entries.map(name).collect()
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    First,
    Any,
    Name(String),
    Number(String),
    Comma,
    Open,
    Close,
}

fn tokens(text: &str) -> Result<Vec<Token>, StandbyNamesError> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after = &rest[first.len_utf8()..];
        let (token, left) = match first {
            ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c' => (None, after),
            ',' => (Some(Token::Comma), after),
            '(' => (Some(Token::Open), after),
            ')' => (Some(Token::Close), after),
            '*' => (Some(Token::Name(ANY_STANDBY.to_owned())), after),
            '"' => {
                let (name, left) = quoted_name(after)?;
                (Some(Token::Name(name)), left)
            }
            digit if digit.is_ascii_digit() => {
                let (digits, left) = split_while(rest, |character| character.is_ascii_digit());
                (Some(Token::Number(digits.to_owned())), left)
            }
            start if starts_identifier(start) => {
                let (word, left) = split_while(rest, continues_identifier);
                (Some(word_token(word)), left)
            }
            _ => return Err(StandbyNamesError::Syntax),
        };
        tokens.extend(token);
        rest = left;
    }
    Ok(tokens)
}

fn word_token(word: &str) -> Token {
    if word.eq_ignore_ascii_case("first") {
        Token::First
    } else if word.eq_ignore_ascii_case("any") {
        Token::Any
    } else {
        Token::Name(word.to_owned())
    }
}

/// The name up to its closing quote, and the text behind that.
fn quoted_name(mut text: &str) -> Result<(String, &str), StandbyNamesError> {
    let mut name = String::new();
    loop {
        let (before, after) = text.split_once('"').ok_or(StandbyNamesError::UnterminatedQuote)?;
        name.push_str(before);
        let Some(doubled) = after.strip_prefix('"') else { return Ok((name, after)) };
        name.push('"');
        text = doubled;
    }
}

fn split_while(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|character| !belongs(character)).unwrap_or(text.len()))
}

const fn starts_identifier(character: char) -> bool {
    character.is_ascii_alphabetic() || character == '_' || !character.is_ascii()
}

const fn continues_identifier(character: char) -> bool {
    starts_identifier(character) || character.is_ascii_digit() || character == '$'
}

#[cfg(test)]
mod tests;
