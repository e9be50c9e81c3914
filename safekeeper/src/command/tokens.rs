//! [`Tokens`]: the words, names, values and signs of a command. Called by the parser only.

use super::error::CommandError;

/// Longest name or value in bytes. No client sends longer ones.
const WORD_BYTES_MAX: usize = 1024;

/// One token of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// Bare: key words, bare names, numbers, WAL positions.
    Word(String),
    /// In double quotes.
    Name(String),
    /// In single quotes.
    Text(String),
    Open,
    Close,
    Comma,
    Equals,
}

/// The tokens of a command that are not parsed yet.
pub(super) struct Tokens(std::iter::Peekable<std::vec::IntoIter<Token>>);

impl Tokens {
    /// Splits the text of a query; a semicolon at its end is dropped.
    pub(super) fn new(text: &str) -> Result<Self, CommandError> {
        let trimmed = text.trim_ascii_end();
        let mut rest = trimmed.strip_suffix(';').unwrap_or(trimmed);
        let mut tokens = Vec::new();
        loop {
            rest = rest.trim_ascii_start();
            let Some(first) = rest.chars().next() else {
                return Ok(Self(tokens.into_iter().peekable()));
            };
            let token = match first {
                '(' => Token::Open,
                ')' => Token::Close,
                ',' => Token::Comma,
                '=' => Token::Equals,
                '"' | '\'' => {
                    let (text, length) = quoted(rest, first)?;
                    rest = &rest[length..];
                    tokens.push(if first == '"' { Token::Name(text) } else { Token::Text(text) });
                    continue;
                }
                _ => {
                    let length = rest.bytes().position(|byte| !is_word(byte)).unwrap_or(rest.len());
                    if length == 0 {
                        return Err(syntax(&format!("unexpected {first:?}")));
                    }
                    let (word, after) = rest.split_at(length);
                    rest = after;
                    tokens.push(Token::Word(bounded(word.to_owned())?));
                    continue;
                }
            };
            rest = &rest[1..];
            tokens.push(token);
        }
    }

    /// The next word in lower case.
    pub(super) fn keyword(&mut self) -> Result<String, CommandError> {
        self.word("a command").map(|word| word.to_ascii_lowercase())
    }

    /// The next bare word.
    pub(super) fn word(&mut self, what: &str) -> Result<String, CommandError> {
        match self.0.next() {
            Some(Token::Word(word)) => Ok(word),
            other => Err(expected(what, other.as_ref())),
        }
    }

    /// A bare or quoted name.
    pub(super) fn identifier(&mut self, what: &str) -> Result<String, CommandError> {
        match self.0.next() {
            Some(Token::Word(name) | Token::Name(name)) if !name.is_empty() => Ok(name),
            other => Err(expected(what, other.as_ref())),
        }
    }

    /// A quoted value, or a bare one.
    pub(super) fn value(&mut self, what: &str) -> Result<String, CommandError> {
        match self.0.next() {
            Some(Token::Word(value) | Token::Text(value)) => Ok(value),
            other => Err(expected(what, other.as_ref())),
        }
    }

    /// The value, if one is next.
    pub(super) fn next_value(&mut self) -> Option<String> {
        match self.0.next_if(|token| matches!(token, Token::Word(_) | Token::Text(_))) {
            Some(Token::Word(value) | Token::Text(value)) => Some(value),
            _ => None,
        }
    }

    /// Skips `token`, if it is next. True when it was.
    pub(super) fn skip(&mut self, token: &Token) -> bool {
        self.0.next_if_eq(token).is_some()
    }

    pub(super) fn expect(&mut self, token: &Token) -> Result<(), CommandError> {
        match self.0.next() {
            Some(next) if next == *token => Ok(()),
            other => Err(expected(&describe(token), other.as_ref())),
        }
    }

    /// Skips a key word, if it is next. True when it was.
    pub(super) fn skip_keyword(&mut self, keyword: &str) -> bool {
        self.0
            .next_if(|token| matches!(token, Token::Word(word) if word.eq_ignore_ascii_case(keyword)))
            .is_some()
    }

    pub(super) fn expect_keyword(&mut self, keyword: &str) -> Result<(), CommandError> {
        if self.skip_keyword(keyword) {
            return Ok(());
        }
        Err(expected(&keyword.to_ascii_uppercase(), self.0.peek()))
    }

    /// Checks that the command has ended.
    pub(super) fn end(&mut self) -> Result<(), CommandError> {
        match self.0.next() {
            None => Ok(()),
            Some(token) => Err(syntax(&format!("unexpected {} after the command", describe(&token)))),
        }
    }
}

/// The text in quotes at the beginning of `rest`, and the bytes it takes there. A doubled quote stands for one.
fn quoted(rest: &str, quote: char) -> Result<(String, usize), CommandError> {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, next)) = chars.next() {
        if next != quote {
            text.push(next);
        } else if chars.next_if(|(_, after)| *after == quote).is_some() {
            text.push(quote);
        } else {
            return Ok((bounded(text)?, at + 1));
        }
    }
    Err(syntax(&format!("unterminated {quote}")))
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'/' | b'.' | b'-' | b'$')
}

fn bounded(word: String) -> Result<String, CommandError> {
    if word.len() > WORD_BYTES_MAX {
        Err(syntax(&format!("a name or value is longer than {WORD_BYTES_MAX} bytes")))
    } else {
        Ok(word)
    }
}

fn expected(what: &str, found: Option<&Token>) -> CommandError {
    syntax(&match found {
        None => format!("expected {what} at the end of the command"),
        Some(token) => format!("expected {what}, found {}", describe(token)),
    })
}

fn syntax(message: &str) -> CommandError {
    CommandError::Syntax(format!("syntax error: {message}"))
}

fn describe(token: &Token) -> String {
    match token {
        Token::Word(text) | Token::Name(text) | Token::Text(text) => format!("{text:?}"),
        Token::Open => "\"(\"".to_owned(),
        Token::Close => "\")\"".to_owned(),
        Token::Comma => "\",\"".to_owned(),
        Token::Equals => "\"=\"".to_owned(),
    }
}
