//! Who must show a credential: everybody, everywhere but on the routes that are always open.

use utoipa::Modify;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};

use super::{errors, operations};
use crate::dialect::Dialect;

/// Names of the schemes in the document.
const BEARER: &str = "bearer";
// After the other by name, because that is the order in which Swagger UI asks for them.
const API_KEY: &str = "x_api_key";

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
        let header = ApiKey::Header(ApiKeyValue::with_description(
            "x-api-key",
            "The same credential, where Anthropic's clients put it.",
        ));
        components.add_security_scheme(API_KEY, SecurityScheme::ApiKey(header));
        document.security = Some(vec![
            SecurityRequirement::new(BEARER, [""; 0]),
            SecurityRequirement::new(API_KEY, [""; 0]),
        ]);
        let anthropic = |path: &str| Dialect::of(path) == Dialect::Anthropic;
        let theirs: Vec<String> = (document.paths.paths.iter())
            .filter(|(path, _)| anthropic(path))
            .flat_map(|(_, item)| item.post.iter())
            .filter_map(|operation| operation.operation_id.clone())
            .collect();
        for operation in operations(document) {
            let id = operation.operation_id.as_deref().unwrap_or_default();
            if OPEN.contains(&id) {
                operation.security = Some(Vec::new());
            } else {
                let dialect = match theirs.iter().any(|theirs| theirs == id) {
                    true => Dialect::Anthropic,
                    false => Dialect::OpenAi,
                };
                let refusals = errors::by_status_in(dialect, &[errors::CREDENTIAL]);
                operation.responses.responses.extend(refusals);
            }
        }
    }
}
