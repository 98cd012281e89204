//! Who must show a credential: everybody, everywhere but on the routes that are always open.

use utoipa::Modify;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};

use super::{errors, operations};

/// Name of the scheme in the document.
const BEARER: &str = "bearer";

/// Operations that need no credential even where authentication is on.
const OPEN: &[&str] = &["health"];

/// Declares the scheme and which operations need it.
pub(super) struct Credentials;

impl Modify for Credentials {
    fn modify(&self, document: &mut OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(
                "`Authorization: Bearer ...` with an API key (`gossamer keys create`) or a JSON Web Token. Needed \
                 where the server runs with authentication.",
            ))
            .build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme(BEARER, SecurityScheme::Http(scheme));
        document.security = Some(vec![SecurityRequirement::new(BEARER, [""; 0])]);
        for operation in operations(document) {
            let id = operation.operation_id.as_deref().unwrap_or_default();
            if OPEN.contains(&id) {
                operation.security = Some(Vec::new());
            } else {
                let refusals = errors::by_status(&[errors::CREDENTIAL]);
                operation.responses.responses.extend(refusals);
            }
        }
    }
}
