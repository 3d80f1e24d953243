//! Reads a spanned TOML table key by key: every fault is noted with its place, and reading goes on.

use std::{collections::BTreeSet, error::Error, path::PathBuf, str::FromStr, sync::Arc};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    error::{Faults, Reason, nearest},
    setting::Setting,
    source::{Place, Source},
};

/// What happens to keys that nobody took.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum UnknownKeys {
    Refuse,
    /// The file is somebody else's.
    Ignore,
}

/// What is the same for every table of a file.
pub(crate) struct Reader<'a> {
    pub(crate) source: &'a Arc<Source>,
    pub(crate) faults: &'a mut Faults,
    pub(crate) unknown_keys: UnknownKeys,
    /// Every key that was asked for, with its table's name before it.
    pub(crate) known: BTreeSet<String>,
}

/// A table that is being read.
pub(crate) struct Table<'r, 'a> {
    reader: &'r mut Reader<'a>,
    /// With the names of the tables that it lies in before it; empty for the document.
    name: String,
    entries: &'r DeTable<'r>,
    /// The table's header, or the key that it is the value of.
    place: Option<Place>,
    taken: Vec<&'static str>,
}

/// What can be read from one TOML value.
pub(crate) trait Value: Sized {
    fn read(value: &DeValue<'_>) -> Result<Self, Reason>;
}

/// A value that is one of a few words.
pub(crate) trait Choice: Copy + 'static {
    const CHOICES: &'static [(&'static str, Self)];

    /// The choice that `word` names.
    fn choose(word: &str) -> Result<Self, Reason> {
        let named = Self::CHOICES.iter().find(|(name, _)| *name == word);
        named.map(|(_, choice)| *choice).ok_or_else(|| {
            let choices: Vec<_> = Self::CHOICES.iter().map(|(name, _)| *name).collect();
            Reason::Choice { nearest: nearest(word, &choices), choices }
        })
    }
}

impl Reader<'_> {
    /// Reads the whole document with `read`.
    pub(crate) fn document<T>(
        &mut self,
        entries: &DeTable<'_>,
        read: impl FnOnce(&mut Table<'_, '_>) -> T,
    ) -> T {
        self.table(String::new(), entries, None, read)
    }

    fn table<T>(
        &mut self,
        name: String,
        entries: &DeTable<'_>,
        place: Option<Place>,
        read: impl FnOnce(&mut Table<'_, '_>) -> T,
    ) -> T {
        let mut table = Table { reader: self, name, entries, place, taken: Vec::new() };
        let value = read(&mut table);
        table.finish();
        value
    }
}

impl Table<'_, '_> {
    /// The place of the table itself.
    pub(crate) fn place(&self) -> Option<Place> {
        self.place.clone()
    }

    /// A value of its own TOML type.
    pub(crate) fn take<T: Value>(&mut self, key: &'static str) -> Setting<T> {
        self.read(key, T::read)
    }

    /// A string that means something.
    pub(crate) fn text<T: FromStr<Err: Error + Send + Sync + 'static>>(
        &mut self,
        key: &'static str,
    ) -> Setting<T> {
        self.read(key, parsed)
    }

    /// The same, where an empty string stands for none.
    pub(crate) fn optional_text<T: FromStr<Err: Error + Send + Sync + 'static>>(
        &mut self,
        key: &'static str,
    ) -> Setting<T> {
        match self.entry(key) {
            Some((_, value)) if value.get_ref().as_str() == Some("") => Setting::Absent,
            Some(_) | None => self.text(key),
        }
    }

    /// A value of its own TOML type, where an empty string stands for none.
    pub(crate) fn optional<T: Value>(&mut self, key: &'static str) -> Setting<T> {
        match self.entry(key) {
            Some((_, value)) if value.get_ref().as_str() == Some("") => Setting::Absent,
            Some(_) | None => self.take(key),
        }
    }

    /// One string, or a list of them.
    pub(crate) fn texts<T: FromStr<Err: Error + Send + Sync + 'static>>(
        &mut self,
        key: &'static str,
    ) -> Setting<Vec<T>> {
        match self.entry(key) {
            Some((_, value)) if value.get_ref().is_str() => self.text(key).map(|one| vec![one]),
            Some(_) | None => self.list(key),
        }
    }

    /// A list of strings, each of them with its own fault.
    pub(crate) fn list<T: FromStr<Err: Error + Send + Sync + 'static>>(
        &mut self,
        key: &'static str,
    ) -> Setting<Vec<T>> {
        let Some((_, value)) = self.entry(key) else {
            return Setting::Absent;
        };
        let Some(array) = value.get_ref().as_array() else {
            return self.faulty(key, wrong_type("a list of strings", value.get_ref()), value);
        };
        let mut list = Vec::with_capacity(array.len());
        for element in array {
            match parsed(element.get_ref()) {
                Ok(parsed) => list.push(parsed),
                Err(reason) => {
                    let _: Setting<T> = self.faulty(key, reason, element);
                }
            }
        }
        if list.len() < array.len() {
            return Setting::Faulty;
        }
        Setting::Given(list, self.place_of(value))
    }

    /// The table `key`, read with `read`.
    pub(crate) fn table<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Table<'_, '_>) -> T,
    ) -> Setting<T> {
        let Some((name, value)) = self.entry(key) else {
            return Setting::Absent;
        };
        let Some(entries) = value.get_ref().as_table() else {
            return self.faulty(key, wrong_type("a table", value.get_ref()), value);
        };
        let place = self.place_of(name);
        let full_name = self.full_name(key);
        let read = self.reader.table(full_name, entries, Some(place.clone()), read);
        Setting::Given(read, place)
    }

    /// The array of tables `key`, each read with `read`.
    pub(crate) fn tables<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&mut Table<'_, '_>) -> T,
    ) -> Setting<Vec<T>> {
        let Some((name, value)) = self.entry(key) else {
            return Setting::Absent;
        };
        let expected = "an array of tables, each beginning with a line of its name in `[[…]]`,";
        let Some(array) = value.get_ref().as_array() else {
            return self.faulty(key, wrong_type(expected, value.get_ref()), name);
        };
        let mut list = Vec::with_capacity(array.len());
        for element in array {
            let Some(entries) = element.get_ref().as_table() else {
                return self.faulty(key, wrong_type("a table", element.get_ref()), element);
            };
            let place = self.place_of(element);
            let full_name = self.full_name(key);
            list.push(self.reader.table(full_name, entries, Some(place), &read));
        }
        Setting::Given(list, self.place_of(name))
    }

    fn read<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Reason>,
    ) -> Setting<T> {
        match self.entry(key) {
            None => Setting::Absent,
            Some((_, value)) => match read(value.get_ref()) {
                Ok(read) => Setting::Given(read, self.place_of(value)),
                Err(reason) => self.faulty(key, reason, value),
            },
        }
    }

    fn faulty<T, S>(&mut self, key: &str, reason: Reason, at: &Spanned<S>) -> Setting<T> {
        let place = self.place_of(at);
        let key = self.full_name(key);
        self.reader.faults.add(key, reason, Some(place));
        Setting::Faulty
    }

    fn place_of<S>(&self, at: &Spanned<S>) -> Place {
        Place::Text(Arc::clone(self.reader.source), at.span())
    }

    fn full_name(&self, key: &str) -> String {
        match self.name.as_str() {
            "" => key.to_owned(),
            name => format!("{name}.{key}"),
        }
    }
}

impl<'r> Table<'r, '_> {
    /// The entry of `key`, which is known from now on.
    fn entry(
        &mut self,
        key: &'static str,
    ) -> Option<(&'r Spanned<toml::de::DeString<'r>>, &'r Spanned<DeValue<'r>>)> {
        if !self.taken.contains(&key) {
            self.taken.push(key);
            let name = self.full_name(key);
            self.reader.known.insert(name);
        }
        let entries = self.entries;
        entries.iter().find(|(name, _)| name.get_ref() == key)
    }

    /// Notes every key that nobody took.
    fn finish(self) {
        if self.reader.unknown_keys == UnknownKeys::Ignore {
            return;
        }
        for (key, _) in self.entries {
            if !self.taken.contains(&&**key.get_ref()) {
                let nearest = nearest(key.get_ref(), &self.taken);
                let place = self.place_of(key);
                let name = self.full_name(key.get_ref());
                self.reader.faults.add(name, Reason::UnknownKey { nearest }, Some(place));
            }
        }
    }
}

fn parsed<T: FromStr<Err: Error + Send + Sync + 'static>>(value: &DeValue<'_>) -> Result<T, Reason> {
    let text = value.as_str().ok_or_else(|| wrong_type("a string", value))?;
    text.parse::<T>().map_err(|error| Reason::Value(Box::new(error)))
}

/// A value of another TOML type than the key has.
pub(crate) fn wrong_type(expected: &'static str, found: &DeValue<'_>) -> Reason {
    let found = match found {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    Reason::Type { expected, found }
}

/// The value of an integer, if it is one that fits.
pub(crate) fn integer(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

impl Value for bool {
    fn read(value: &DeValue<'_>) -> Result<Self, Reason> {
        value.as_bool().ok_or_else(|| wrong_type("true or false", value))
    }
}

impl Value for PathBuf {
    fn read(value: &DeValue<'_>) -> Result<Self, Reason> {
        parsed(value)
    }
}

impl<T: Choice> Value for T {
    fn read(value: &DeValue<'_>) -> Result<Self, Reason> {
        let word = value.as_str().ok_or_else(|| wrong_type("a string", value))?;
        T::choose(word)
    }
}
