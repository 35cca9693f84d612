//! Everything that can be asked of the API: who may, what it does, what goes in and comes out.
//!
//! A route that is not in these lists is answered to nobody.

mod config;
mod lock;
mod registry;
mod server;
mod subject;
mod tracing;

use std::{borrow::Cow, collections::HashMap, sync::LazyLock};

use http::Method;
use pintle_api::access::Role;
pub(crate) use subject::Subject;
use utoipa::{
    IntoParams, ToSchema,
    openapi::{RefOr, Schema, path::Parameter},
};

/// The method of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Verb {
    Get,
    Put,
    Post,
    Delete,
}

impl Verb {
    fn of(method: &Method) -> Option<Self> {
        match *method {
            Method::GET | Method::HEAD => Some(Self::Get),
            Method::PUT => Some(Self::Put),
            Method::POST => Some(Self::Post),
            Method::DELETE => Some(Self::Delete),
            _ => None,
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing that anybody else notices.
    Read,
    /// Changes what a backend keeps.
    Change,
    /// Changes how this server works.
    Manage,
}

/// The type of a body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Type {
    pub(crate) name: fn() -> Cow<'static, str>,
    pub(crate) collect: fn(&mut Vec<(String, RefOr<Schema>)>),
}

/// A type as JSON.
const fn json<T: ToSchema>() -> Type {
    fn collect<T: ToSchema>(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(schemas);
    }
    Type { name: T::name, collect: collect::<T> }
}

fn query<T: IntoParams>() -> Vec<Parameter> {
    T::into_params(|| Some(utoipa::openapi::path::ParameterIn::Query))
}

/// What a request carries.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Input {
    Nothing,
    /// The bytes of a value.
    Bytes,
    Json(Type),
}

/// What an answer carries.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Output {
    Nothing,
    /// The bytes of a value, or it as JSON.
    BytesOr(Type),
    Json(Type),
    /// Server-Sent Events with data of these types.
    Events(&'static [(&'static str, Type)]),
    /// Metrics as Prometheus reads them.
    Metrics,
    /// This description.
    Description,
}

/// A request that a test sends, with the path's parameters as [`EXAMPLES`] has them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Example {
    pub(crate) query: &'static str,
    pub(crate) body: &'static str,
    pub(crate) status: u16,
}

/// One thing that can be asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operation {
    /// Noun and verb.
    pub(crate) id: &'static str,
    pub(crate) verb: Verb,
    /// As the router has it.
    pub(crate) path: &'static str,
    pub(crate) summary: &'static str,
    /// The least role; without one no token is asked for.
    pub(crate) role: Option<Role>,
    pub(crate) kind: Kind,
    /// It goes on until the caller, or somebody else, ends it.
    pub(crate) waits: bool,
    /// A token that is limited to some backends is good for it, although it names none.
    pub(crate) for_limited: bool,
    pub(crate) query: Option<fn() -> Vec<Parameter>>,
    pub(crate) input: Input,
    pub(crate) output: Output,
    pub(crate) example: Example,
}

/// What stands for the names in a path, what it means, and what it is in examples.
pub(crate) const EXAMPLES: &[(&str, &str, &str)] = &[
    (
        "backend",
        "Name of the backend; for what a backend offers, `default` stands for the default one",
        "local",
    ),
    ("key", "Path of segments between `/`; slashes stay as they are", "app/greeting"),
    ("name", "Name of the lock; one segment, `/` is written `%2F`", "jobs/nightly"),
    ("election", "Name of the election; one segment", "scheduler"),
    ("service", "Name of the service", "web"),
    ("id", "Chosen by the client, and never used for anything else", "example-1"),
    ("term", "Chosen by the candidate, and never used for anything else", "term-1"),
    ("claim", "`claim_id` of a holder or waiter", "0"),
    ("plugin", "Name of the plugin", "local"),
    ("token", "Id or name of the token", "ci"),
];

impl Operation {
    /// Something that is asked with GET and changes nothing.
    const fn read(id: &'static str, path: &'static str, summary: &'static str) -> Self {
        Self {
            id,
            verb: Verb::Get,
            path,
            summary,
            role: Some(Role::Viewer),
            kind: Kind::Read,
            waits: false,
            for_limited: false,
            query: None,
            input: Input::Nothing,
            output: Output::Nothing,
            example: Example { query: "", body: "", status: 200 },
        }
    }

    /// Something that changes what a backend keeps.
    const fn change(
        id: &'static str,
        verb: Verb,
        path: &'static str,
        summary: &'static str,
    ) -> Self {
        let read = Self::read(id, path, summary);
        Self { verb, role: Some(Role::Operator), kind: Kind::Change, ..read }
    }

    /// Something that changes how the server works.
    const fn manage(
        id: &'static str,
        verb: Verb,
        path: &'static str,
        summary: &'static str,
    ) -> Self {
        let read = Self::read(id, path, summary);
        Self { verb, role: Some(Role::Admin), kind: Kind::Manage, ..read }
    }

    const fn verb(self, verb: Verb) -> Self {
        Self { verb, ..self }
    }

    const fn role(self, role: Role) -> Self {
        Self { role: Some(role), ..self }
    }

    const fn kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    const fn for_anybody(self) -> Self {
        Self { role: None, for_limited: true, ..self }
    }

    const fn for_limited(self) -> Self {
        Self { for_limited: true, ..self }
    }

    const fn waits(self) -> Self {
        Self { waits: true, ..self }
    }

    const fn query(self, query: fn() -> Vec<Parameter>) -> Self {
        Self { query: Some(query), ..self }
    }

    const fn bytes(self) -> Self {
        Self { input: Input::Bytes, ..self }
    }

    const fn takes(self, input: Type) -> Self {
        Self { input: Input::Json(input), ..self }
    }

    const fn answers(self, output: Type) -> Self {
        Self { output: Output::Json(output), ..self }
    }

    const fn output(self, output: Output) -> Self {
        Self { output, ..self }
    }

    const fn example(self, query: &'static str, body: &'static str, status: u16) -> Self {
        Self { example: Example { query, body, status }, ..self }
    }

    /// The names in its path.
    pub(crate) fn path_parameters(&self) -> impl Iterator<Item = &'static str> {
        self.path
            .split('/')
            .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
            .map(|name| name.trim_start_matches('*'))
    }
}

const LISTS: [&[Operation]; 5] = [
    server::OPERATIONS,
    config::OPERATIONS,
    registry::OPERATIONS,
    lock::OPERATIONS,
    tracing::OPERATIONS,
];

/// All operations, each at the index by which [`find`] names it.
pub(crate) fn all() -> impl Iterator<Item = &'static Operation> {
    LISTS.into_iter().flatten()
}

type Index = HashMap<(&'static str, Verb), (usize, &'static Operation)>;

static INDEX: LazyLock<Index> = LazyLock::new(|| {
    all().enumerate().map(|(index, found)| ((found.path, found.verb), (index, found))).collect()
});

/// The operation of a method on a route, and its index.
pub(crate) fn find(method: &Method, path: &str) -> Option<(usize, &'static Operation)> {
    let index: &HashMap<(&str, Verb), _> = &INDEX;
    index.get(&(path, Verb::of(method)?)).copied()
}

/// The methods that a route takes.
pub(crate) fn methods_of(path: &str) -> impl Iterator<Item = &'static str> {
    all().filter(move |operation| operation.path == path).map(|operation| operation.verb.as_str())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_operation_is_there_once_under_a_name_of_its_own() {
        let ids: HashSet<_> = all().map(|operation| operation.id).collect();
        let places: HashSet<_> = all().map(|operation| (operation.path, operation.verb)).collect();
        assert_eq!((ids.len(), places.len()), (all().count(), all().count()));
    }

    #[test]
    fn nothing_that_changes_anything_is_for_viewers() {
        for operation in all().filter(|operation| operation.kind != Kind::Read) {
            assert!(operation.role >= Some(Role::Operator), "{}", operation.id);
            assert!(operation.verb != Verb::Get, "{}", operation.id);
        }
    }

    #[test]
    fn each_name_in_a_path_has_an_example() {
        for operation in all() {
            for name in operation.path_parameters() {
                assert!(EXAMPLES.iter().any(|(known, ..)| *known == name), "{name}");
            }
        }
    }
}
