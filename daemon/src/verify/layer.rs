//! [`Verifier`] as a tower layer, and what handlers behind it can ask for.

use std::borrow::Cow;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use jwt_core::Claims;
use serde::de::DeserializeOwned;
use tower_layer::Layer;
use tower_service::Service;

use super::Verifier;
use super::refusal::{Challenges, Refusal};

/// A service behind a [`Verifier`].
#[derive(Clone, Debug)]
pub struct Protected<S> {
    inner: S,
    verifier: Verifier,
}

impl<S> Layer<S> for Verifier {
    type Service = Protected<S>;

    fn layer(&self, inner: S) -> Protected<S> {
        Protected { inner, verifier: self.clone() }
    }
}

impl<S, B> Service<Request<B>> for Protected<S>
where
    S: Service<Request<B>, Response = Response> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The one that is ready, not a clone that is not.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let verifier = self.verifier.clone();
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            match verifier.verify(&parts.headers).await {
                Ok(claims) => {
                    let challenges = verifier.0.challenges.clone();
                    parts.extensions.insert(Verified { claims, challenges });
                    inner.call(Request::from_parts(parts, body)).await
                }
                Err(refusal) => {
                    tracing::info!(
                        event = "denied",
                        reason = refusal.reason(),
                        status = refusal.status().as_u16()
                    );
                    Ok(verifier.0.challenges.answer(&refusal))
                }
            }
        })
    }
}

/// The claims of a request that a [`Verifier`] has let through: in the request's extensions, and as an axum extractor.
/// Where no verifier is in front of the handler, the extractor answers 500: the route would be open.
#[derive(Clone, Debug)]
pub struct Verified {
    claims: Claims,
    challenges: Challenges,
}

impl Verified {
    /// The caller: `identifier`, else `sub`, if it is a text.
    pub fn identifier(&self) -> Option<Cow<'_, str>> {
        self.claims.str("identifier").or_else(|| self.claims.str("sub"))
    }

    /// The claims, also when the request is over.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The claims as a type of yours.
    ///
    /// # Errors
    /// What serde says, if they do not fit.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.claims.json())
    }
}

impl Deref for Verified {
    type Target = Claims;

    fn deref(&self) -> &Claims {
        &self.claims
    }
}

impl<S: Sync> FromRequestParts<S> for Verified {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            tracing::error!(
                path = parts.uri.path(),
                "a handler wants claims, and no Verifier is in front of it"
            );
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        })
    }
}

/// The claims as a type of yours, as an axum extractor. A good token whose claims do not fit the type gets 403
/// `insufficient_scope`; without a [`Verifier`] in front the answer is 500, as with [`Verified`].
#[derive(Clone, Copy, Debug)]
pub struct TokenClaims<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for TokenClaims<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let verified = Verified::from_request_parts(parts, state).await?;
        verified.read().map(Self).map_err(|_| verified.challenges.answer(&Refusal::Insufficient))
    }
}
