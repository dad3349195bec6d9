//! Reads tables key by key, and takes note of all that is wrong.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{FAULTS_MAX, Fault, Faults, Place, meant, quoted, shown};

/// A text that is read, and what was found wrong in it.
#[derive(Debug)]
pub(super) struct Reader<'t> {
    file: &'t str,
    text: &'t str,
    faults: RefCell<Vec<Fault>>,
}

impl<'t> Reader<'t> {
    pub(super) fn new(file: &'t str, text: &'t str) -> Reader<'t> {
        Reader { file, text, faults: RefCell::default() }
    }

    /// A slip in the syntax.
    pub(super) fn malformed(&self, error: &toml::de::Error) {
        let span = error.span().unwrap_or(0..0);
        let told = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
        let source = self.text.get(span.clone()).filter(|source| !source.trim().is_empty());
        let told = match source {
            Some(source) => format!("{}: {told}", quoted(&shown(source))),
            None => told,
        };
        self.fault(Place::of(self.text, span.start), String::new(), None, told);
    }

    pub(super) fn fault(&self, place: Place, key: String, value: Option<String>, told: String) {
        let mut faults = self.faults.borrow_mut();
        if faults.len() < FAULTS_MAX {
            faults.push(Fault { file: self.file.to_owned(), place: Some(place), key, value, told });
        }
    }

    pub(super) fn is_clean(&self) -> bool {
        self.faults.borrow().is_empty()
    }

    pub(super) fn into_result<T>(self, value: T) -> Result<T, Faults> {
        Faults::of(self.faults.into_inner()).map(|()| value)
    }

    pub(super) fn into_faults(self) -> Faults {
        match Faults::of(self.faults.into_inner()) {
            Err(faults) => faults,
            Ok(()) => Faults::of_file(self.file, "it cannot be read".to_owned()),
        }
    }
}

type Value<'t> = Spanned<DeValue<'t>>;

/// A table that is read. To be [finished](Table::finish), which finds the keys that nobody asked for.
pub(super) struct Table<'r, 't> {
    reader: &'r Reader<'t>,
    /// The tables that it is in, with points behind.
    path: String,
    head: Range<usize>,
    entries: &'r DeTable<'t>,
    asked: RefCell<Vec<String>>,
}

impl<'r, 't> Table<'r, 't> {
    pub(super) fn new(
        reader: &'r Reader<'t>,
        path: String,
        head: Range<usize>,
        entries: &'r DeTable<'t>,
    ) -> Table<'r, 't> {
        Table { reader, path, head, entries, asked: RefCell::default() }
    }

    fn entry(&self, key: &str) -> Option<(&'r Spanned<Cow<'t, str>>, &'r Value<'t>)> {
        if !self.asked.borrow().iter().any(|asked| asked == key) {
            self.asked.borrow_mut().push(key.to_owned());
        }
        self.entries.iter().find(|(name, _)| name.get_ref() == key)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// Where a key stands; where it is not, where the table does.
    pub(super) fn place(&self, key: &str) -> Place {
        let at = self.entry(key).map_or(self.head.start, |(name, _)| name.span().start);
        Place::of(self.reader.text, at)
    }

    /// Where it begins.
    pub(super) fn head(&self) -> Place {
        Place::of(self.reader.text, self.head.start)
    }

    /// Where each of its keys stands.
    pub(super) fn places(&self) -> BTreeMap<String, Place> {
        let place = |name: &Spanned<Cow<'t, str>>| Place::of(self.reader.text, name.span().start);
        self.entries.keys().map(|name| (name.get_ref().to_string(), place(name))).collect()
    }

    /// A key that should be there is not.
    pub(super) fn missing(&self, key: &str, told: &str) {
        let place = Place::of(self.reader.text, self.head.start);
        self.reader.fault(place, format!("{}{key}", self.path), None, told.to_owned());
    }

    /// A value makes no sense.
    fn wrong(&self, key: &str, value: &Value<'t>, told: String) {
        let span = value.span();
        let source = self.reader.text.get(span.clone()).map(shown);
        let key = format!("{}{key}", self.path);
        self.reader.fault(Place::of(self.reader.text, span.start), key, source, told);
    }

    /// A key that means nothing here.
    pub(super) fn useless(&self, key: &str, told: &str) {
        if let Some((_, value)) = self.entry(key) {
            self.wrong(key, value, told.to_owned());
        }
    }

    /// The value of a key, read as a flag's text would be.
    pub(super) fn read<T, E: Display>(&self, key: &str, read: impl Fn(&str) -> Result<T, E>) -> Option<T> {
        let (_, value) = self.entry(key)?;
        self.one(key, value, &read)
    }

    fn one<T, E: Display>(
        &self,
        key: &str,
        value: &Value<'t>,
        read: &impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        match text_of(value.get_ref()) {
            Some(text) => read(&text).map_err(|error| self.wrong(key, value, error.to_string())).ok(),
            None => {
                let kind = value.get_ref().type_str();
                self.wrong(key, value, format!("it is of type {kind}; allowed: a string or a number"));
                None
            }
        }
    }

    /// The values of a key that may have several, each read as a flag's text would be.
    pub(super) fn read_all<T, E: Display>(&self, key: &str, read: impl Fn(&str) -> Result<T, E>) -> Vec<T> {
        self.each(key, |value| self.one(key, value, &read))
    }

    /// The values of a key that may have several.
    pub(super) fn each<T>(&self, key: &str, read: impl Fn(&'r Value<'t>) -> Option<T>) -> Vec<T> {
        match self.entry(key) {
            None => Vec::new(),
            Some((_, value)) => match value.get_ref() {
                DeValue::Array(all) => all.iter().filter_map(read).collect(),
                _ => read(value).into_iter().collect(),
            },
        }
    }

    /// The same where a value may be a table too.
    pub(super) fn read_all_or<T, E: Display>(
        &self,
        key: &str,
        read: impl Fn(&str) -> Result<T, E>,
        table: impl Fn(Table<'r, 't>) -> Option<T>,
    ) -> Vec<T> {
        self.each(key, |value| match value.get_ref() {
            DeValue::Table(entries) => {
                table(Table::new(self.reader, format!("{}{key}.", self.path), value.span(), entries))
            }
            _ => self.one(key, value, &read),
        })
    }

    /// A table in this one.
    pub(super) fn table(&self, key: &str) -> Option<Table<'r, 't>> {
        let (name, value) = self.entry(key)?;
        match value.get_ref() {
            DeValue::Table(entries) => {
                let path = format!("{}{key}.", self.path);
                Some(Table::new(self.reader, path, name.span(), entries))
            }
            other => {
                let told = format!("it is of type {}; allowed: a table, as in [{key}]", other.type_str());
                self.wrong(key, value, told);
                None
            }
        }
    }

    /// All tables in this one, whose names are the file's own, in its order.
    pub(super) fn tables(self, within: Option<&str>) -> Vec<(String, Table<'r, 't>)> {
        let mut names: Vec<&Spanned<Cow<'t, str>>> = self.entries.keys().collect();
        names.sort_by_key(|name| name.span().start);
        let tables = names.into_iter().filter_map(|name| {
            let (text, table) = (name.get_ref().to_string(), self.table(name.get_ref())?);
            let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
            if !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.chars().all(plain) {
                return Some((text, table));
            }
            let told = format!(
                "{} is no name of a {}; allowed: at most {NAME_BYTES_MAX} letters, digits and - _ .",
                quoted(&text),
                within.unwrap_or("proxy")
            );
            let place = Place::of(self.reader.text, name.span().start);
            self.reader.fault(place, format!("{}{text}", self.path), None, told);
            None
        });
        tables.collect()
    }

    /// All keys, which are the file's own, with their values.
    pub(super) fn pairs<T, E: Display>(&self, read: impl Fn(&str, &str) -> Result<T, E>) -> Vec<T> {
        let all = self.entries.iter().filter_map(|(name, value)| {
            let key = name.get_ref();
            self.one(key, value, &|text: &str| read(key, text))
        });
        all.collect()
    }

    /// Finds the keys that nobody asked for.
    pub(super) fn finish(self) {
        let asked = self.asked.borrow();
        for (name, value) in self.entries.iter() {
            let key = name.get_ref();
            if asked.iter().any(|asked| asked == key) {
                continue;
            }
            let source = match value.get_ref() {
                DeValue::Table(_) => None,
                _ => self.reader.text.get(value.span()).map(shown),
            };
            let place = Place::of(self.reader.text, name.span().start);
            self.reader.fault(place, format!("{}{key}", self.path), source, meant(key, &asked));
        }
    }
}

/// Longer than a name that somebody reads.
const NAME_BYTES_MAX: usize = 64;

/// A value as a flag's text.
fn text_of<'v>(value: &'v DeValue<'_>) -> Option<Cow<'v, str>> {
    match value {
        DeValue::String(text) => Some(Cow::Borrowed(text)),
        DeValue::Integer(number) => Some(Cow::Owned(number.to_string())),
        DeValue::Float(number) => Some(Cow::Borrowed(number.as_str())),
        DeValue::Boolean(is) => Some(Cow::Borrowed(if *is { "true" } else { "false" })),
        _ => None,
    }
}
