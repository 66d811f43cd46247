//! Bodies of requests to the issuer.

use super::body::Fields;

/// Read as the routes read them: each field in the way of its kind, and refused if there is another.
pub fn rest_body(data: &[u8]) {
    let Ok(mut fields) = Fields::parse(data) else { return };
    let key = fields.secret("key");
    let identifier = fields.uuid("identifier");
    let rotate = fields.optional_flag("rotate");
    let seconds = fields.has("valid_for").then(|| fields.number("valid_for"));
    let token = fields.has("jwt").then(|| fields.text("jwt"));
    let complete = key.zip(identifier).zip(rotate);
    let Ok(((key, identifier), _)) = fields.finish(complete) else { return };
    assert!(seconds.flatten().is_none_or(|seconds| seconds >= 0));
    assert!(token.flatten().is_none_or(|token| !token.is_empty() && token.len() <= 256));
    // The same again in the form that the database keeps.
    let again = serde_json::json!({"key": key.expose(), "identifier": identifier.to_string()});
    let mut fields = Fields::parse(again.to_string().as_bytes()).expect("an object");
    assert_eq!(fields.secret("key").expect("a text").expose(), key.expose());
    assert_eq!(fields.uuid("identifier"), Some(identifier));
}
