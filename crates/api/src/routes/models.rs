//! `GET /v1/models` and `GET /v1/models/{model}`.

use actix_web::HttpResponse;
use actix_web::web::{Data, Path};

use crate::error::{ApiError, ErrorCode};
use crate::openapi::errors::{ServerErrors, UnknownModel};
use crate::state::AppState;
use crate::wire::models::{Model, ModelList};

/// The models that can be named in `model`: the loaded one, then its other names, but for those that stand for many.
#[utoipa::path(
    get,
    path = "/v1/models",
    operation_id = "listModels",
    tag = "OpenAI",
    responses((status = 200, description = "The models.", body = ModelList), ServerErrors),
)]
pub(crate) async fn list(state: Data<AppState>) -> HttpResponse {
    let config = &state.config;
    let data = std::iter::once(&config.model)
        .chain(
            config
                .model_aliases
                .iter()
                .filter(|alias| !alias.ends_with('*')),
        )
        .map(|id| model(id, &state))
        .collect();
    HttpResponse::Ok().json(ModelList {
        object: "list",
        data,
    })
}

/// One model.
#[utoipa::path(
    get,
    path = "/v1/models/{model}",
    operation_id = "retrieveModel",
    tag = "OpenAI",
    params(("model" = String, Path, description = "Id of a model.")),
    responses(
        (status = 200, description = "The model.", body = Model),
        UnknownModel,
        ServerErrors,
    ),
)]
pub(crate) async fn retrieve(
    id: Path<String>,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    if !state.config.serves(&id) {
        let shown: String = id.chars().take(80).collect();
        return Err(ApiError::field(
            ErrorCode::ModelNotFound,
            "model",
            format!("The model '{shown}' does not exist here. GET /v1/models lists those that do."),
        ));
    }
    Ok(HttpResponse::Ok().json(model(&id, &state)))
}

fn model(id: &str, state: &AppState) -> Model {
    let main = &state.config.model;
    Model {
        id: id.to_owned(),
        object: "model",
        created: state.created,
        owned_by: "gossamer",
        parent: (id != main).then(|| main.clone()),
        max_model_len: state.engine.max_sequence_len(),
    }
}
