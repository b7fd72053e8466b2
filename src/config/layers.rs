//! One layer of configuration after the other: where each value was said, and what is wrong with it.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::DeserializeOwned;
use serde::de::IntoDeserializer;
use toml::Spanned;
use toml::Value;

/// Where a value was said.
#[derive(Debug, Clone, PartialEq)]
pub enum Place {
    /// In a file; the line where it is known.
    File { name: String, line: Option<usize> },
    /// In an environment variable.
    Env(String),
    /// With a flag.
    Flag(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { name, line: Some(line) } => write!(f, "{name}, line {line}"),
            Self::File { name, line: None } => f.write_str(name),
            Self::Env(variable) => write!(f, "environment variable {variable}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// A configuration that can't be used: where, which key, what is wrong.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl ConfigError {
    pub(super) fn new(place: Option<&Place>, problem: impl fmt::Display) -> Self {
        match place {
            Some(place) => Self(format!("configuration: {place}: {problem}")),
            None => Self(format!("configuration: {problem}")),
        }
    }
}

/// A value as its layer says it.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// With a type of its own, from TOML.
    Typed(Value),
    /// As text, from the environment or a flag: its type is that of the key.
    Text(String),
}

/// One key of one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    key: String,
    said: Said,
    place: Place,
}

impl Entry {
    pub(super) fn from_flag(flag: &super::FlagValue) -> Self {
        Self {
            key: flag.key.clone(),
            said: Said::Text(flag.value.clone()),
            place: Place::Flag(flag.flag.clone()),
        }
    }
}

/// Reads a TOML text of the form `[section]`, `key = value`.
pub fn from_toml(text: &str, name: &str) -> Result<Vec<Entry>, ConfigError> {
    let place_at = |offset: usize| {
        let before = text.get(..offset).unwrap_or(text);
        Place::File { name: name.to_owned(), line: Some(before.matches('\n').count() + 1) }
    };
    let file: BTreeMap<Spanned<String>, Spanned<Value>> = toml::from_str(text).map_err(|error| {
        let place = match error.span() {
            Some(span) => place_at(span.start),
            None => Place::File { name: name.to_owned(), line: None },
        };
        ConfigError::new(Some(&place), error.message())
    })?;
    // The spans of the keys inside a section need a second look: a `Value` does not carry them.
    let spans: BTreeMap<String, BTreeMap<Spanned<String>, serde::de::IgnoredAny>> =
        toml::from_str(text).unwrap_or_default();
    let mut entries = Vec::new();
    for (section, value) in &file {
        let Value::Table(keys) = value.get_ref() else {
            let place = place_at(section.span().start);
            let problem = format!("`{}` stands outside of any [section]", section.get_ref());
            return Err(ConfigError::new(Some(&place), problem));
        };
        let section_name = section.get_ref();
        for (key, value) in keys {
            let span = spans.get(section_name).and_then(|keys| keys.keys().find(|k| k.get_ref() == key));
            let offset = span.map_or(section.span().start, |key| key.span().start);
            entries.push(Entry {
                key: format!("{section_name}.{key}"),
                said: Said::Typed(value.clone()),
                place: place_at(offset),
            });
        }
    }
    Ok(entries)
}

/// Takes the variables that begin with `prefix`; `__` parts section and key, case does not matter.
pub fn from_env(vars: impl IntoIterator<Item = (String, String)>, prefix: &str) -> Vec<Entry> {
    let ours = vars.into_iter().filter_map(|(name, value)| {
        let key = name.strip_prefix(prefix)?.to_lowercase().replace("__", ".");
        Some(Entry { key, said: Said::Text(value), place: Place::Env(name) })
    });
    ours.collect()
}

/// The layers so far, over each other: for each key its value and where it was said last.
#[derive(Debug)]
pub struct Merged(BTreeMap<String, (Value, Place)>);

impl Merged {
    /// The first layer: its keys are the known ones and its values have the types.
    pub fn new(defaults: Vec<Entry>) -> Self {
        let typed = defaults.into_iter().filter_map(|entry| match entry.said {
            Said::Typed(value) => Some((entry.key, (value, entry.place))),
            Said::Text(_) => None,
        });
        Self(typed.collect())
    }

    /// Lays one more layer over it.
    pub fn overlay(&mut self, layer: Vec<Entry>) -> Result<(), ConfigError> {
        for Entry { key, said, place } in layer {
            let Some((value, said_at)) = self.0.get_mut(&key) else {
                return Err(self.unknown(&key, &place));
            };
            let new = match said {
                Said::Typed(new) => new,
                Said::Text(text) => typed_like(value, &text)
                    .map_err(|problem| ConfigError::new(Some(&place), format!("`{key}` {problem}")))?,
            };
            if !new.same_type(value) {
                let problem =
                    format!("`{key}` is of type {}, but must be {}", new.type_str(), value.type_str());
                return Err(ConfigError::new(Some(&place), problem));
            }
            *value = new;
            *said_at = place;
        }
        Ok(())
    }

    fn unknown(&self, key: &str, place: &Place) -> ConfigError {
        let likeness = |known: &&String| strsim::jaro_winkler(key, known);
        let nearest = self.0.keys().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
        let hint = nearest.map(|known| format!("; the nearest known key is `{known}`")).unwrap_or_default();
        ConfigError::new(Some(place), format!("`{key}` is not a known key{hint}"))
    }

    /// Reads the merged keys into their struct.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        let mut sections: BTreeMap<&str, BTreeMap<&str, Value>> = BTreeMap::new();
        for (key, (value, _)) in &self.0 {
            let (section, key) = key.split_once('.').unwrap_or(("", key));
            sections.entry(section).or_default().insert(key, value.clone());
        }
        let table = Value::try_from(sections).map_err(|error| ConfigError::new(None, error))?;
        serde_path_to_error::deserialize(table.into_deserializer()).map_err(|error| {
            let key = error.path().to_string();
            self.error_at(&key, error.inner().to_string().trim())
        })
    }

    /// An error about a key, at the place that said it last.
    pub fn error_at(&self, key: &str, problem: impl fmt::Display) -> ConfigError {
        // Of a list, an entry: `orders.prefer_warehouses[0]`.
        let said = key.split('[').next().unwrap_or(key);
        ConfigError::new(self.0.get(said).map(|(_, place)| place), format!("`{key}`: {problem}"))
    }
}

/// Reads a text as a value of the same type as `like`; the error is the rest of a sentence that begins with the key.
fn typed_like(like: &Value, text: &str) -> Result<Value, String> {
    match like {
        Value::Integer(_) => text
            .trim()
            .parse()
            .map(Value::Integer)
            .map_err(|_| format!("is {text:?}, but must be a whole number")),
        Value::Boolean(_) => text
            .trim()
            .parse()
            .map(Value::Boolean)
            .map_err(|_| format!("is {text:?}, but must be true or false")),
        Value::Array(_) => {
            // `[2, 1]`, or shorter `2,1`.
            let text = text.trim();
            let list = if text.starts_with('[') { text.to_owned() } else { format!("[{text}]") };
            let read: Result<BTreeMap<String, Value>, _> = toml::from_str(&format!("list = {list}"));
            let list = read.ok().and_then(|mut read| read.remove("list"));
            list.ok_or_else(|| format!("is {text:?}, but must be a list such as [2, 1]"))
        }
        _ => Ok(Value::String(text.to_owned())),
    }
}
