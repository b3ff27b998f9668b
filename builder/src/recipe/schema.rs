//! The recipe language as a JSON Schema, for editors. It is made of the same tables that the reader
//! goes by, so it can not know a key that the reader does not.

use serde_json::{Map, Value, json};

use super::VARIANTS;
use super::step::VERBS;
use super::wire::{BOOTSTRAP_KEYS, RECIPE_KEYS, SOURCE_KEYS, TEST_KEYS};
use crate::lint::Rule;

/// The schema (JSON Schema 2020-12).
pub fn schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "imgtool recipe",
        "type": "object",
        "additionalProperties": false,
        "required": ["name", "version", "source"],
        "properties": object(&RECIPE_KEYS, top),
    })
}

fn object(keys: &[&str], value: impl Fn(&str) -> Value) -> Value {
    keys.iter().map(|key| (key.to_string(), value(key))).collect::<Map<_, _>>().into()
}

fn top(key: &str) -> Value {
    match key {
        "arch" => list(choice(&["x86_64", "aarch64", "amd64", "arm64"])),
        "init" => choice(&["agent", "systemd"]),
        "source_date_epoch" => json!({ "type": "integer", "minimum": 0 }),
        "size" | "reserve" => json!({ "type": "string", "pattern": "^[0-9]+ ?[KMGT]iB$" }),
        "label" => json!({ "type": "string", "maxLength": super::LABEL_BYTES_MAX }),
        "source" => json!({
            "type": "object",
            "additionalProperties": false,
            "minProperties": 1,
            "maxProperties": 1,
            "properties": object(&SOURCE_KEYS, |key| match key {
                "bootstrap" => table(&["suite"], object(&BOOTSTRAP_KEYS, |key| match key {
                    "variant" => choice(&VARIANTS),
                    "suite" => text(),
                    _ => list(text()),
                })),
                _ => text(),
            }),
        }),
        "test" => list(table(
            &["command"],
            object(&TEST_KEYS, |key| match key {
                "command" => list(text()),
                "exit" => json!({ "type": "integer", "minimum": 0, "maximum": 255 }),
                "timeout" => time(),
                _ => text(),
            }),
        )),
        "lint" => {
            let names = Rule::ALL.map(Rule::name);
            table(&[], json!({ "allow": list(choice(&names)) }))
        }
        "step" => {
            let verbs: Vec<Value> = VERBS.iter().map(|(verb, keys)| step(verb, keys)).collect();
            list(json!({ "oneOf": verbs }))
        }
        _ => text(),
    }
}

fn step(verb: &str, keys: &[&str]) -> Value {
    let all: Vec<&str> = [verb, "arch"].iter().chain(keys).copied().collect();
    let mut required = vec![verb];
    let needs = ["to", "content", "target"];
    required.extend(keys.iter().filter(|key| needs.contains(key)));
    table(&required, object(&all, |key| value(verb, key)))
}

fn value(verb: &str, key: &str) -> Value {
    let text_or_list = || json!({ "anyOf": [text(), list(text())] });
    match (verb, key) {
        (_, "arch") => top("arch"),
        (_, "run" | "remove" | "truncate" | "set") => text_or_list(),
        (_, "packages" | "first_boot" | "secrets" | "groups") => list(text()),
        (_, "network" | "recommends" | "raw") => json!({ "type": "boolean" }),
        (_, "env") => json!({ "type": "object", "additionalProperties": text() }),
        (_, "timeout") => time(),
        (_, "home" | "shell") => json!({ "type": "string", "pattern": "^/[^:]*$" }),
        (_, "mode") => json!({ "type": "string", "pattern": "^[0-7]{3,4}$" }),
        (_, "uid") => json!({ "type": "integer", "minimum": 1 }),
        (_, "state") => choice(&["enabled", "disabled", "masked"]),
        _ => text(),
    }
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn time() -> Value {
    json!({ "type": "string", "pattern": "^[0-9]+[smh]$" })
}

fn list(of: Value) -> Value {
    json!({ "type": "array", "items": of })
}

fn choice(of: &[&str]) -> Value {
    json!({ "enum": of })
}

fn table(required: &[&str], properties: Value) -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": required,
        "properties": properties,
    })
}
