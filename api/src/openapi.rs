//! The description of the API, made from the handlers, the wire types, the table of routes and the table of codes.

use std::fmt::Write;

use utoipa::OpenApi;
use utoipa::openapi::path::Operation;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};

use crate::codes::{Code, CodeInfo, TABLE};
use crate::problem::ProblemBody;
use crate::routes::{Method, ROUTES, RouteInfo};
use crate::{admin, batch, health, orders, stock};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "hotstock",
        description = "A stock engine for orders and flash sales. Every answer is durable before it is given; repeating a \
            request is always safe. Errors are application/problem+json with a stable `code`."
    ),
    paths(
        orders::reserve, orders::list, orders::get, orders::confirm, orders::release, orders::extend, orders::return_units,
        batch::batch,
        stock::create, stock::list, stock::get, stock::journal, stock::restock, stock::deduct, stock::adjust, stock::suspend, stock::resume,
        admin::promote, admin::demote, admin::promote_all, admin::demote_all, admin::hot, admin::set_hot, admin::shards, admin::checkpoint,
        admin::reconcile, admin::parked, admin::anomalies,
        health::livez, health::readyz, health::metrics, health::openapi,
    ),
    components(schemas(ProblemBody)),
    tags(
        (name = "orders", description = "Reserve, confirm, release, extend, return"),
        (name = "stock", description = "Create, read, change"),
        (name = "operators", description = "What is hot, how far the shards are, health, counts, this description. Paths below /v1/admin \
            need `Authorization: Bearer` with the operators' token; without one set they are served to the server's own machine only.")
    )
)]
struct Described;

/// The description as JSON.
#[must_use]
pub fn json() -> String {
    document().to_json().expect("text and numbers can always be written")
}

fn document() -> utoipa::openapi::OpenApi {
    let mut document = Described::openapi();
    for info in ROUTES {
        if let Some(operation) = operation(&mut document, info) {
            add_problems(operation, info);
        }
    }
    document
}

fn operation<'a>(document: &'a mut utoipa::openapi::OpenApi, info: &RouteInfo) -> Option<&'a mut Operation> {
    let item = document.paths.paths.get_mut(info.path)?;
    match info.method {
        Method::Get => item.get.as_mut(),
        Method::Post => item.post.as_mut(),
        Method::Put => item.put.as_mut(),
        Method::Any => None,
    }
}

/// One response for each status of the route's codes, which lists those codes.
fn add_problems(operation: &mut Operation, info: &RouteInfo) {
    let codes: Vec<Code> = info.codes().collect();
    let mut statuses: Vec<u16> = codes.iter().map(|code| code.info().status).collect();
    statuses.sort_unstable();
    statuses.dedup();
    for status in statuses {
        let of_status = TABLE.iter().filter(|row| row.status == status && codes.contains(&row.code));
        let response = RefOr::T(problem_response(of_status));
        operation.responses.responses.insert(status.to_string(), response);
    }
}

fn problem_response<'a>(rows: impl Iterator<Item = &'a CodeInfo>) -> Response {
    let description = rows.fold(String::new(), |mut text, row| {
        writeln!(text, "- `{}`: {}", row.name, row.meaning).expect("writing to a String does not fail");
        text
    });
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("ProblemBody"))).build();
    ResponseBuilder::new().description(description).content("application/problem+json", content).build()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_description_has_every_route_and_no_other() {
        let document: serde_json::Value = serde_json::from_str(&json()).unwrap();
        let described: BTreeSet<(String, String)> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, item)| {
                item.as_object().unwrap().keys().map(|method| (method.to_uppercase(), path.clone()))
            })
            .collect();
        let served: BTreeSet<(String, String)> = ROUTES
            .iter()
            .filter(|info| info.method != Method::Any)
            .map(|info| (info.method.name().to_owned(), info.path.to_owned()))
            .collect();
        assert_eq!(described, served);
    }

    #[test]
    fn every_code_is_described() {
        let document: serde_json::Value = serde_json::from_str(&json()).unwrap();
        let listed: Vec<&str> = document["components"]["schemas"]["Code"]["enum"]
            .as_array()
            .unwrap()
            .iter()
            .map(|code| code.as_str().unwrap())
            .collect();
        let table: Vec<&str> = TABLE.iter().map(|row| row.name).collect();
        assert_eq!(listed, table, "the names of the enum and of the table are the same");
        let text = json();
        for row in TABLE.iter().filter(|row| !matches!(row.code, Code::NotFound | Code::MethodNotAllowed)) {
            assert!(text.contains(&format!("- `{}`: ", row.name)), "no route lists {}", row.name);
        }
    }

    /// A reference to a schema that is not there breaks every generator of clients.
    #[test]
    fn every_reference_leads_somewhere() {
        let text = json();
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        let references: BTreeSet<&str> = text
            .split("\"$ref\":\"#/components/schemas/")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap())
            .collect();
        assert!(references.contains("ReserveBody") && references.contains("ProblemBody"));
        for name in references {
            assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
        }
    }

    #[test]
    fn what_is_required_is_described_as_such() {
        let document: serde_json::Value = serde_json::from_str(&json()).unwrap();
        let required = |name: &str| {
            let list = document["components"]["schemas"][name]["required"].clone();
            serde_json::from_value::<Vec<String>>(list).unwrap()
        };
        assert_eq!(required("ReserveBody"), ["order_no", "lines"]);
        assert_eq!(required("LineBody"), ["sku_id", "quantity"]);
        assert_eq!(required("CreateBody"), ["sku_id", "quantity"]);
        assert_eq!(required("ExtendBody"), ["ttl_seconds"]);
    }
}
