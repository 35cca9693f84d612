use super::Incarnation;
use crate::bindings::wire::{lifecycle as wire, types};
use crate::calls::Kind;
use crate::plugin::{Plugin, Start};
use crate::{Error, settings};
use std::marker::PhantomData;
use std::rc::Rc;

/// Exports `pintle:plugin/lifecycle` for a plugin.
pub struct PluginGlue<P>(PhantomData<P>);

/// Most counters that a health report holds.
const COUNTERS_MAX: usize = 64;

impl<P: Plugin> wire::Guest for PluginGlue<P> {
    fn describe() -> wire::Description {
        let description = P::description();
        wire::Description {
            version: description.version,
            summary: description.summary,
            features: description.features.names(),
            settings_schema: settings::schema_of::<P>(),
            single_writer: description.single_writer,
            data_directory: description.data_directory,
        }
    }

    async fn start(ctx: types::Context, options: wire::StartOptions) -> Result<(), types::Error> {
        #[cfg(target_family = "wasm")]
        {
            crate::log::install::<P>();
            drop(wit_bindgen::spawn_local(crate::runtime::drive()));
        }
        let incarnation = Incarnation::current();
        let run = incarnation.calls.run("start", Kind::Read, ctx, async |cx| {
            let start = Start {
                settings: settings::parse::<P>(&options.settings)?,
                endpoints: options.endpoints.into_iter().map(Into::into).collect(),
                resume: options.resume,
                backend: options.backend,
                node: options.node,
            };
            P::start(cx, start).await
        });
        let plugin = run.await?;
        *incarnation.features.borrow_mut() = Rc::new(P::description().features);
        *incarnation.plugin.borrow_mut() = Some(plugin);
        Ok(())
    }

    async fn health(_: types::Context) -> Result<wire::HealthReport, types::Error> {
        let plugin: Rc<P> = Incarnation::current().plugin()?;
        let mut report = plugin.health().report;
        report.counters.truncate(COUNTERS_MAX);
        Ok(report)
    }

    async fn stop(ctx: types::Context) -> Result<(), types::Error> {
        let incarnation = Incarnation::current();
        let Ok(plugin) = incarnation.plugin::<P>() else { return Ok(()) };
        let run = incarnation.calls.run("stop", Kind::Write, ctx, async |cx| {
            let registrations = incarnation.registry.close_all(cx).await;
            let leases = incarnation.lock.close_all(cx).await;
            let watches = incarnation.config.close_all(cx).await;
            let stopped = plugin.stop(cx).await;
            first_error([stopped, registrations, leases, watches])
        });
        run.await
    }

    fn cancel(call_id: u64) {
        Incarnation::current().calls.cancel(call_id);
    }
}

fn first_error(results: impl IntoIterator<Item = Result<(), Error>>) -> Result<(), Error> {
    results.into_iter().collect()
}
