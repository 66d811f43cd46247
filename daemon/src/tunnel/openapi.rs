//! The tunnels' part of the API document: answers that many routes share, and the list of the routes.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::openapi::{
    ContentBuilder, HeaderBuilder, ObjectBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder,
    Type,
};
use utoipa::{IntoResponses, OpenApi as _, PartialSchema, ToSchema};

/// What was wrong.
#[derive(Serialize, ToSchema)]
pub(super) struct ErrorText {
    error: String,
    /// What more there is to know, as `cause`.
    #[schema(nullable = false)]
    data: Option<Cause>,
}

#[derive(Serialize, ToSchema)]
struct Cause {
    cause: String,
}

/// Who asks, and what any request can fail for.
pub(super) struct Refusals;

impl IntoResponses for Refusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let json = |text: &str| {
            let schema = Ref::from_schema_name(ErrorText::name());
            let content = ContentBuilder::new().schema(Some(schema)).build();
            ResponseBuilder::new().description(text).content("application/json", content)
        };
        // Texts are the originals'.
        let either = |text: &str| {
            let schema = ObjectBuilder::new().schema_type(Type::String);
            let content = ContentBuilder::new().schema(Some(schema)).build();
            json(text).content("text/plain; charset=utf-8", content)
        };
        let header =
            || HeaderBuilder::new().schema(Some(ObjectBuilder::new().schema_type(Type::String)));
        let answers = [
            (
                "401",
                json("There is no good token. Not on the internal listener, nor under `auth = \"none\"`.")
                    .header("WWW-Authenticate", header().build()),
            ),
            (
                "403",
                either("Not allowed: an administrator's route, a destination, a web page, or the shared secret."),
            ),
            ("404", either("There is no such thing for this caller, or an id is not a number.")),
            ("500", either("A bug, or a change that failed; the log has more.")),
            (
                "503",
                json("The daemon is stopping, has as many channels or connections as it may, or cannot check tokens \
                    at the moment.")
                .header("Retry-After", header().build()),
            ),
        ];
        answers.map(|(status, answer)| (status.to_owned(), answer.build().into())).into()
    }
}

/// What a body can be refused for.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "for the document; the answers are made by respond")]
pub(super) enum BodyRefusals {
    /// The body is no JSON object, or not of the right shape.
    #[response(status = 400)]
    Malformed(ErrorText),
    /// The body did not arrive in time.
    #[response(status = 408)]
    Slow(ErrorText),
    /// The body is longer than 1 MiB.
    #[response(status = 413)]
    TooLarge(ErrorText),
}

/// What a request for a websocket can be refused for.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "for the document; the answers are made by Handshake")]
pub(super) enum HandshakeRefusals {
    /// What follows are websocket messages.
    #[response(status = 101)]
    Switching,
    /// The request asks for no websocket, or not in order.
    #[response(status = 400, content_type = "text/plain; charset=utf-8")]
    NoWebsocket(String),
}

/// It cannot be done as things are: the channel is not connected or connected already, the port is taken.
#[derive(IntoResponses)]
#[response(status = 409)]
#[expect(dead_code, reason = "for the document; the answer is made by respond")]
pub(super) struct NotNowConflict(ErrorText);

/// Somebody else did not answer, or not as expected: the peer, the proxy.
#[derive(IntoResponses)]
#[response(status = 502)]
#[expect(dead_code, reason = "for the document; the answer is made by respond")]
pub(super) struct Elsewhere(ErrorText);

#[derive(utoipa::OpenApi)]
#[openapi(paths(
    super::routes::version,
    super::routes::create_channel,
    super::routes::connect_channel,
    super::routes::create_tunnel,
    super::routes::delete_tunnel,
    super::routes::connect_tunnel,
))]
struct Channels;

/// The routes of tunnels, and those for operators.
pub(crate) fn document() -> OpenApi {
    let mut document = Channels::openapi();
    document.merge(super::operator::document());
    let schemas = &mut document.components.get_or_insert_default().schemas;
    for (name, schema) in
        [(ErrorText::name(), ErrorText::schema()), (Cause::name(), Cause::schema())]
    {
        schemas.insert(name.into_owned(), schema);
    }
    document
}

/// All routes of these, but for the one of the shared secret.
#[cfg(test)]
pub(crate) fn all_routes() -> impl Iterator<Item = (::http::Method, &'static str)> {
    let channels = super::routes::endpoints().into_iter();
    channels.map(|endpoint| (endpoint.method, endpoint.path)).chain(super::operator::all_routes())
}
