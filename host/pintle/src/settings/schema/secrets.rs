//! Finds the settings that a schema calls secret.

use serde_json::{Map, Value};

use super::refer;
use crate::settings::path::KeyPath;

/// Places of all texts in `settings` that may be secret: `"writeOnly": true` holds for a value and
/// for all in it. Where a schema offers several forms, all of them count.
pub(super) fn texts(schema: &Value, settings: &Value) -> Vec<KeyPath> {
    let mut search = Search { root: schema, found: vec![] };
    search.value(schema, settings, &KeyPath::default());
    search.found.sort();
    search.found.dedup();
    search.found
}

struct Search<'a> {
    root: &'a Value,
    found: Vec<KeyPath>,
}

/// Keywords whose schemas are about the same value.
const IN_PLACE: [&str; 8] =
    ["allOf", "anyOf", "oneOf", "if", "then", "else", "not", "dependentSchemas"];

impl Search<'_> {
    fn value(&mut self, schema: &Value, value: &Value, path: &KeyPath) {
        let Some(schema) = schema.as_object() else { return };
        if schema.get("writeOnly") == Some(&Value::Bool(true)) {
            return self.all(value, path);
        }
        let target = schema.get("$ref").and_then(Value::as_str);
        if let Some(target) = target.and_then(|reference| refer(self.root, reference)) {
            self.value(target, value, path);
        }
        for keyword in IN_PLACE {
            match schema.get(keyword) {
                Some(Value::Array(forms)) => {
                    forms.iter().for_each(|form| self.value(form, value, path));
                }
                Some(Value::Object(forms)) if keyword == "dependentSchemas" => {
                    forms.values().for_each(|form| self.value(form, value, path));
                }
                Some(form) => self.value(form, value, path),
                None => {}
            }
        }
        match value {
            Value::Object(table) => self.table(schema, table, path),
            Value::Array(list) => self.list(schema, list, path),
            _ => {}
        }
    }

    fn table(&mut self, schema: &Map<String, Value>, table: &Map<String, Value>, path: &KeyPath) {
        let properties = schema.get("properties").and_then(Value::as_object);
        let by_pattern = schema.get("patternProperties").and_then(Value::as_object);
        for (key, value) in table {
            let path = path.key(key);
            let named = properties.and_then(|properties| properties.get(key));
            let matched = by_pattern.into_iter().flat_map(Map::values);
            let others = ["additionalProperties", "unevaluatedProperties"];
            let others = others.into_iter().filter_map(|keyword| schema.get(keyword));
            for form in named.into_iter().chain(matched).chain(others) {
                self.value(form, value, &path);
            }
        }
    }

    fn list(&mut self, schema: &Map<String, Value>, list: &[Value], path: &KeyPath) {
        let first = schema.get("prefixItems").and_then(Value::as_array);
        for (index, value) in list.iter().enumerate() {
            let path = path.index(index);
            let own = first.and_then(|forms| forms.get(index));
            let others = ["items", "contains", "unevaluatedItems"];
            let others = others.into_iter().filter_map(|keyword| schema.get(keyword));
            for form in own.into_iter().chain(others) {
                self.value(form, value, &path);
            }
        }
    }

    fn all(&mut self, value: &Value, path: &KeyPath) {
        match value {
            Value::String(_) => self.found.push(path.clone()),
            Value::Array(list) => {
                for (index, value) in list.iter().enumerate() {
                    self.all(value, &path.index(index));
                }
            }
            Value::Object(table) => {
                for (key, value) in table {
                    self.all(value, &path.key(key));
                }
            }
            _ => {}
        }
    }
}
