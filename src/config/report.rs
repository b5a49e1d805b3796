//! The configuration as a table: key, value, and in the comment the value's other unit and its origin.
//!
//! The whole table is valid TOML, so that what is in effect can be kept as a file.

use super::Loaded;
use super::keys::{Access, KEYS, Shown};
use super::names;
use super::origin::Origin;

/// A value longer than this, a list of size classes, does not push all comments to the right.
const VALUE_WIDTH_MAX: usize = 32;

/// One line for each key whose origin is wanted, in the order of the table of keys.
pub(super) fn table(loaded: &Loaded, is_wanted: impl Fn(&Origin) -> bool) -> String {
    let mut rows = rows(loaded);
    rows.retain(|row| is_wanted(&loaded.origin(&row.name)));
    let name_width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    let values = rows.iter().map(|row| row.value.chars().count());
    let value_width = values.filter(|width| *width <= VALUE_WIDTH_MAX).max().unwrap_or(0);
    let mut table = String::new();
    for Row { name, value, comment } in &rows {
        table.push_str(&format!("{name:name_width$} = {value:value_width$}  # {comment}\n"));
    }
    table
}

struct Row {
    name: String,
    value: String,
    comment: String,
}

fn rows(loaded: &Loaded) -> Vec<Row> {
    let mut rows = Vec::new();
    for key in KEYS {
        match key.access {
            Access::Single { show, .. } => {
                rows.push(row(loaded, key.name.to_owned(), show(&loaded.config)));
            }
            Access::Tag { show, .. } => {
                let budgets = loaded.config.pool.budgets.iter();
                rows.extend(budgets.map(|(tag, bytes)| row(loaded, names::budget(tag), show(*bytes))));
            }
            Access::Class { show, .. } => {
                for (size, class) in &loaded.config.memory.classes {
                    let name = key.name.replace("SIZE", &size.to_string());
                    rows.extend(show(class).map(|shown| row(loaded, name, shown)));
                }
            }
        }
    }
    rows
}

fn row(loaded: &Loaded, name: String, shown: Shown) -> Row {
    let note = loaded.notes.get(name.as_str()).cloned();
    // A path or a variable may be named in any way, but a comment ends with its line.
    let origin = loaded.origin(&name).to_string().replace(char::is_control, "?");
    let parts: Vec<String> = shown.note.into_iter().chain(note).chain([origin]).collect();
    Row { name, value: shown.toml, comment: parts.join("; ") }
}
