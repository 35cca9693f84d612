//! The macro that turns a type into a component.

/// Exports a plugin, with the capabilities that it implements.
///
/// Use it once, at the root of a crate whose `crate-type` is `cdylib`. It does nothing in native
/// builds, where the plugin is tested.
///
/// ```
/// # use pintle_plugin_sdk::{Context, Description, Error, Health, NoSettings, Plugin, Start};
/// # use pintle_plugin_sdk::tracing::{ExportResult, Tracing};
/// # use std::rc::Rc;
/// # struct Sink;
/// # impl Plugin for Sink {
/// #     type Settings = NoSettings;
/// #     fn description() -> Description { Description::new("0.1.0", "drops spans") }
/// #     async fn start(_: &Context, _: Start<NoSettings>) -> Result<Rc<Self>, Error> { Ok(Rc::new(Self)) }
/// #     fn health(&self) -> Health { Health::serving("ready") }
/// #     async fn stop(&self, _: &Context) -> Result<(), Error> { Ok(()) }
/// # }
/// # impl Tracing for Sink {
/// #     async fn export(&self, _: &Context, _: Vec<u8>) -> Result<ExportResult, Error> {
/// #         Ok(ExportResult { accepted: 0, rejected: Vec::new() })
/// #     }
/// # }
/// pintle_plugin_sdk::export!(Sink: tracing);
/// ```
#[macro_export]
macro_rules! export {
    ($plugin:ty $(: $($capability:ident),+ $(,)?)?) => {
        const _: () = {
            #[cfg(target_family = "wasm")]
            type Lifecycle = $crate::glue::PluginGlue<$plugin>;
            #[cfg(target_family = "wasm")]
            $crate::bindings::base::export!(Lifecycle with_types_in $crate::bindings::base);
        };
        $($($crate::__export_capability!($capability, $plugin);)+)?
        $($crate::__same_lease!($plugin: $($capability),+);)?
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export_capability {
    (config, $plugin:ty) => {
        $crate::__export_glue!(config, ConfigGlue, config::Config, $plugin);
    };
    (registry, $plugin:ty) => {
        $crate::__export_glue!(registry, RegistryGlue, registry::Registry, $plugin);
    };
    (lock, $plugin:ty) => {
        $crate::__export_glue!(lock, LockGlue, lock::Lock, $plugin);
    };
    (tracing, $plugin:ty) => {
        $crate::__export_glue!(tracing, TracingGlue, tracing::Tracing, $plugin);
    };
    ($other:ident, $plugin:ty) => {
        compile_error!("the capabilities are: config, registry, lock, tracing");
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export_glue {
    ($module:ident, $glue:ident, $($capability:ident)::+, $plugin:ty) => {
        const _: () = {
            const fn implemented<P: $crate::$($capability)::+>() {}
            implemented::<$plugin>();
            #[cfg(target_family = "wasm")]
            type Glue = $crate::glue::$glue<$plugin>;
            #[cfg(target_family = "wasm")]
            $crate::bindings::$module::export!(Glue with_types_in $crate::bindings::$module);
        };
    };
}

/// Where a plugin has both, the leases of its configuration preconditions are those of its lock.
#[doc(hidden)]
#[macro_export]
macro_rules! __same_lease {
    ($plugin:ty: $($capability:ident),*) => {
        $crate::__same_lease!(@config $plugin; $($capability)*; $($capability)*);
    };
    (@config $plugin:ty; config $($rest:ident)*; $($all:ident)*) => {
        $crate::__same_lease!(@lock $plugin; $($all)*);
    };
    (@config $plugin:ty; $other:ident $($rest:ident)*; $($all:ident)*) => {
        $crate::__same_lease!(@config $plugin; $($rest)*; $($all)*);
    };
    (@config $plugin:ty; ; $($all:ident)*) => {};
    (@lock $plugin:ty; lock $($rest:ident)*) => {
        const _: () = {
            const fn same<P>()
            where
                P: $crate::lock::Lock + $crate::config::Config<Held = <P as $crate::lock::Lock>::Lease>,
            {
            }
            same::<$plugin>();
        };
    };
    (@lock $plugin:ty; $other:ident $($rest:ident)*) => {
        $crate::__same_lease!(@lock $plugin; $($rest)*);
    };
    (@lock $plugin:ty;) => {};
}
