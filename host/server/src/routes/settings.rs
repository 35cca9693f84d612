//! The settings that the host runs with.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, Router, routing::get};
use pintle::settings::SettingsSchema;
use pintle_api::settings::{Setting, Settings};

use super::AppState;
use crate::state::State;

pub(super) fn routes() -> Router<Arc<State>> {
    Router::new().route("/v1/settings", get(show))
}

async fn show(axum::extract::State(state): AppState) -> Json<Settings> {
    // What a plugin calls a secret is hidden, too.
    let schemas: BTreeMap<String, String> = state
        .pintle
        .backends()
        .into_iter()
        .filter_map(|status| Some((status.plugin, status.plugin_info?.settings_schema)))
        .collect();
    let schema_of = |plugin: &str| SettingsSchema::parse(schemas.get(plugin)?).ok();
    let settings = state
        .pintle
        .settings()
        .show(schema_of)
        .into_iter()
        .map(|shown| Setting {
            key: shown.key,
            value: shown.value,
            origin: shown.origin.to_string(),
        })
        .collect();
    Json(Settings { settings })
}
