//! The description of the API (OpenAPI 3.1), made from the lists of operations and the types.

use std::{collections::BTreeMap, sync::LazyLock};

use serde_json::Value;
use utoipa::{
    ToSchema,
    openapi::{
        ComponentsBuilder, ContentBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder,
        PathItem, PathsBuilder, Ref, RefOr, Required, ResponseBuilder, ResponsesBuilder, Schema,
        path::{HttpMethod, OperationBuilder, Parameter, ParameterBuilder, ParameterIn},
        request_body::{RequestBody, RequestBodyBuilder},
        schema::{ObjectBuilder, SchemaType, Type as JsonType},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

use crate::operations::{self, EXAMPLES, Input, Operation, Output, Type, Verb};

const BEARER: &str = "token";
const DESCRIPTION: &str = "\
Configuration, service registry, locks and elections over any backend that has a plugin.

Every answer that is not a success is a problem document (RFC 9457) with a stable `type`. Its \
`effect` says whether the change may have happened all the same.

A watch is a stream of Server-Sent Events: `snapshot-begin`, a `put` for each thing, `snapshot-end`, \
then each change. After `resync` state is right again once what follows was applied. The last event \
of a stream that cannot go on is `problem`.";

static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    // A document of strings and numbers can always be written.
    let mut text = document().to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
});

/// The document as JSON.
pub(crate) fn text() -> &'static str {
    &DOCUMENT
}

fn document() -> OpenApi {
    let license = LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build();
    let info = InfoBuilder::new()
        .title("Pintle")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .license(Some(license))
        .build();
    let mut paths = BTreeMap::<String, PathItem>::new();
    for operation in operations::all() {
        let item = PathItem::new(method(operation.verb), described(operation));
        match paths.get_mut(&path(operation)) {
            Some(present) => present.merge_operations(item),
            None => {
                paths.insert(path(operation), item);
            }
        }
    }
    let all = paths.into_iter().fold(PathsBuilder::new(), |all, (path, item)| all.path(path, item));
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("An access token, where the server asks for one"))
        .build();
    let sorted: BTreeMap<String, RefOr<Schema>> = schemas().into_iter().collect();
    let components = sorted
        .into_iter()
        .fold(ComponentsBuilder::new(), |all, (name, schema)| all.schema(name, schema))
        .security_scheme(BEARER, SecurityScheme::Http(bearer))
        .build();
    OpenApiBuilder::new().info(info).paths(all.build()).components(Some(components)).build()
}

fn described(operation: &Operation) -> utoipa::openapi::path::Operation {
    let noun = operation.id.split('.').next().unwrap_or_default();
    let role = operation.role.map_or_else(
        || "No token is needed.".to_owned(),
        |role| format!("Needs the role `{role}`, where the server asks for tokens."),
    );
    let mut built = OperationBuilder::new()
        .operation_id(Some(operation.id))
        .tag(noun)
        .summary(Some(operation.summary))
        .description(Some(role))
        .request_body(request_body(operation))
        .responses(responses(operation));
    for name in operation.path_parameters() {
        built = built.parameter(path_parameter(name));
    }
    let given = example_query(operation);
    for parameter in operation.query.map(|query| query()).unwrap_or_default() {
        built = built.parameter(with_example(parameter, &given));
    }
    if operation.role.is_some() {
        built = built.security(SecurityRequirement::new::<_, [&str; 0], _>(BEARER, []));
        built = built.security(SecurityRequirement::default());
    }
    built.build()
}

fn path_parameter(name: &str) -> Parameter {
    let (description, example) = EXAMPLES
        .iter()
        .find(|(known, ..)| *known == name)
        .map_or(("", ""), |(_, description, example)| (*description, *example));
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(description))
        .schema(Some(text_schema()))
        .example(Some(example.into()))
        .build()
}

fn with_example(parameter: Parameter, given: &BTreeMap<String, String>) -> Parameter {
    let Some(value) = given.get(&parameter.name) else { return parameter };
    // A number stays one.
    let value = value.parse::<u64>().map_or_else(|_| Value::from(value.as_str()), Value::from);
    ParameterBuilder::from(parameter).example(Some(value)).build()
}

fn example_query(operation: &Operation) -> BTreeMap<String, String> {
    let pairs = operation.example.query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(name, value)| {
            let value = percent_encoding::percent_decode_str(value).decode_utf8_lossy();
            (name.to_owned(), value.into_owned())
        })
        .collect()
}

fn request_body(operation: &Operation) -> Option<RequestBody> {
    let example = operation.example.body;
    let body = RequestBodyBuilder::new().required(Some(Required::True));
    Some(match operation.input {
        Input::Nothing => return None,
        Input::Bytes => {
            let content = ContentBuilder::new()
                .schema(Some(bytes_schema()))
                .example(Some(example.into()))
                .build();
            body.content("application/octet-stream", content).build()
        }
        Input::Json(of) => {
            let content = ContentBuilder::new()
                .schema(Some(reference(of)))
                .example(serde_json::from_str(example).ok())
                .build();
            body.content("application/json", content).build()
        }
    })
}

fn responses(operation: &Operation) -> utoipa::openapi::Responses {
    let schema = |schema: RefOr<Schema>| ContentBuilder::new().schema(Some(schema)).build();
    let done = ResponseBuilder::new().description("Done");
    let (status, done) = match operation.output {
        Output::Nothing => ("204", done),
        Output::Json(of) => ("200", done.content("application/json", schema(reference(of)))),
        Output::BytesOr(of) => (
            "200",
            done.content("application/json", schema(reference(of)))
                .content("*/*", schema(bytes_schema())),
        ),
        Output::Events(events) => {
            let names: Vec<String> = events
                .iter()
                .map(|(event, of)| format!("`{event}` with {}", (of.name)()))
                .collect();
            let text = format!("Events: {}", names.join(", "));
            ("200", done.description(text).content("text/event-stream", schema(text_schema())))
        }
        Output::Metrics => {
            ("200", done.content("application/openmetrics-text", schema(text_schema())))
        }
        Output::Description => {
            let object = RefOr::T(Schema::Object(ObjectBuilder::new().build()));
            ("200", done.content("application/json", schema(object)))
        }
    };
    let problem = ContentBuilder::new()
        .schema(Some(RefOr::<Schema>::Ref(Ref::from_schema_name("Problem"))))
        .build();
    let failed = ResponseBuilder::new()
        .description("Not done, or not known to be done")
        .content(pintle_api::PROBLEM_JSON, problem);
    let mut all = ResponsesBuilder::new().response(status, done.build());
    if operation.id == "server.ready" {
        let body = schema(RefOr::Ref(Ref::from_schema_name("Readiness")));
        let not_ready = ResponseBuilder::new().description("A backend does not run");
        all = all.response("503", not_ready.content("application/json", body).build());
    }
    if matches!(operation.output, Output::BytesOr(_)) {
        let unchanged = ResponseBuilder::new().description("The client has this version");
        all = all.response("304", unchanged.build());
    }
    all.response("default", failed.build()).build()
}

/// The types that operations take and answer, and those in them; some more than once.
fn schemas() -> Vec<(String, RefOr<Schema>)> {
    let mut schemas = Vec::new();
    collect_others(&mut schemas);
    operations::all().for_each(|operation| collect(operation, &mut schemas));
    schemas
}

fn collect(operation: &Operation, schemas: &mut Vec<(String, RefOr<Schema>)>) {
    if let Input::Json(of) = operation.input {
        (of.collect)(schemas);
    }
    match operation.output {
        Output::Json(of) | Output::BytesOr(of) => (of.collect)(schemas),
        Output::Events(events) => events.iter().for_each(|(_, of)| (of.collect)(schemas)),
        Output::Nothing | Output::Metrics | Output::Description => {}
    }
}

/// What no body of an operation names: problems, and types of parameters.
fn collect_others(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    fn one<T: ToSchema>(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(schemas);
    }
    one::<pintle_api::Problem>(schemas);
    one::<pintle_api::config::Consistency>(schemas);
    one::<pintle_api::config::Format>(schemas);
}

fn reference(of: Type) -> RefOr<Schema> {
    RefOr::Ref(Ref::from_schema_name((of.name)()))
}

fn text_schema() -> RefOr<Schema> {
    let object = ObjectBuilder::new().schema_type(SchemaType::Type(JsonType::String)).build();
    RefOr::T(Schema::Object(object))
}

fn bytes_schema() -> RefOr<Schema> {
    // In OpenAPI 3.1 a body of bytes has no schema of its own.
    RefOr::T(Schema::Object(ObjectBuilder::new().schema_type(SchemaType::AnyValue).build()))
}

fn method(verb: Verb) -> HttpMethod {
    match verb {
        Verb::Get => HttpMethod::Get,
        Verb::Put => HttpMethod::Put,
        Verb::Post => HttpMethod::Post,
        Verb::Delete => HttpMethod::Delete,
    }
}

fn path(operation: &Operation) -> String {
    operation.path.replace("{*", "{")
}

/// A request that shows how an operation is asked.
#[derive(Debug, Clone)]
pub struct ExampleRequest {
    /// Name of the operation.
    pub id: &'static str,
    /// Its method.
    pub method: &'static str,
    /// Path and query.
    pub target: String,
    /// The body; empty for none.
    pub body: &'static str,
    /// Status of the answer.
    pub status: u16,
}

/// A request for each operation. In this order they succeed one after the other, on a host whose
/// default backend offers everything that `local` does.
#[must_use]
pub fn examples() -> Vec<ExampleRequest> {
    let request = |operation: &Operation| {
        let mut target = operation.path.to_owned();
        for (name, _, example) in EXAMPLES {
            let (one, rest) = (format!("{{{name}}}"), format!("{{*{name}}}"));
            target = target.replace(&one, &pintle_api::address::segment(example));
            target = target.replace(&rest, &pintle_api::address::key(example));
        }
        let example = operation.example;
        if !example.query.is_empty() {
            target = format!("{target}?{}", example.query);
        }
        ExampleRequest {
            id: operation.id,
            method: operation.verb.as_str(),
            target,
            body: example.body,
            status: example.status,
        }
    };
    operations::all().map(request).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use serde_json::json;

    #[test]
    fn the_document_names_everything_that_it_refers_to() {
        let document: Value = serde_json::from_str(text()).unwrap();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{document}");
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let mut referred = Vec::new();
        fn walk(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(to)) = map.get("$ref") {
                        found.push(to.clone());
                    }
                    map.values().for_each(|value| walk(value, found));
                }
                Value::Array(list) => list.iter().for_each(|value| walk(value, found)),
                _ => {}
            }
        }
        walk(&document, &mut referred);
        for reference in referred {
            let name = reference.rsplit('/').next().unwrap();
            assert!(schemas.contains_key(name), "{reference}");
        }
        assert_eq!(document["paths"]["/healthz"]["get"]["operationId"], json!("server.live"));
    }

    #[test]
    fn no_two_types_have_one_name() {
        let mut named: HashMap<String, Value> = HashMap::new();
        for (name, schema) in schemas() {
            let schema = serde_json::to_value(schema).unwrap();
            let before = named.insert(name.clone(), schema.clone());
            assert!(before.is_none_or(|before| before == schema), "{name}");
        }
    }
}
