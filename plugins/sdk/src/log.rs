//! The plugin's log: events of the `tracing` crate go to the host.

use crate::Plugin;
use crate::bindings::wire::host::{self, Level};
use std::fmt::{self, Write as _};
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, span};

/// Sends what this plugin and the SDK log from `debug` on, and what libraries log from `warn` on.
pub(crate) fn install<P: Plugin>() {
    let plugin = std::any::type_name::<P>();
    let own = plugin.split("::").next().unwrap_or(plugin);
    // A second start in one store cannot happen; if it did, the first subscriber serves as well.
    let _ = tracing::subscriber::set_global_default(HostLog { own });
}

struct HostLog {
    /// The plugin's own crate.
    own: &'static str,
}

impl tracing::Subscriber for HostLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let root = metadata.target().split("::").next().unwrap_or_default();
        let own = root == self.own || root == "pintle_plugin_sdk";
        let finest = if own { tracing::Level::DEBUG } else { tracing::Level::WARN };
        metadata.is_event() && *metadata.level() <= finest
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::DEBUG)
    }

    fn event(&self, event: &Event<'_>) {
        let mut record = Record::default();
        event.record(&mut record);
        host::log(level_of(event.metadata().level()), &record.message, &record.fields);
    }

    // Spans are not kept: the caller's trace comes with each call's context.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

fn level_of(level: &tracing::Level) -> Level {
    match *level {
        tracing::Level::TRACE => Level::Trace,
        tracing::Level::DEBUG => Level::Debug,
        tracing::Level::INFO => Level::Info,
        tracing::Level::WARN => Level::Warn,
        tracing::Level::ERROR => Level::Error,
    }
}

#[derive(Default)]
struct Record {
    message: String,
    fields: Vec<(String, String)>,
}

impl Visit for Record {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a string does not fail.
            let _ = write!(self.message, "{value:?}");
        } else {
            self.fields.push((field.name().to_owned(), format!("{value:?}")));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.fields.push((field.name().to_owned(), value.to_owned()));
        }
    }
}
