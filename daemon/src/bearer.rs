//! The token of a request: `Authorization: Bearer`, the one place where it is looked for (RFC 6750 §2.1).

use axum::http::{HeaderMap, header};

/// Why a request has no token that could be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoToken {
    /// No `Authorization: Bearer` header, or a malformed one.
    Missing,
    /// More than one `Authorization` header: who takes the first may take another one than a proxy did.
    Ambiguous,
}

/// The token in `headers`.
pub(crate) fn token(headers: &HeaderMap) -> Result<&[u8], NoToken> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or(NoToken::Missing)?.as_bytes();
    if values.next().is_some() {
        return Err(NoToken::Ambiguous);
    }
    // RFC 9110 §11.1: the scheme is case-insensitive.
    match value.split_at_checked("Bearer ".len()) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"Bearer ") => Ok(token),
        _ => Err(NoToken::Missing),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    /// rel:T10.
    #[test]
    fn one_header_with_one_scheme_has_the_token() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
            }
            token(&headers).map(<[u8]>::to_vec)
        };
        for good in ["Bearer a.b.c", "bearer a.b.c", "BEARER a.b.c"] {
            assert_eq!(of(&[good]), Ok(b"a.b.c".to_vec()), "{good}");
        }
        for bad in [&[][..], &[""], &["Bearer"], &["Basic a.b.c"], &["Bearera.b.c"]] {
            assert_eq!(of(bad), Err(NoToken::Missing), "{bad:?}");
        }
        assert_eq!(of(&["Bearer a.b.c", "Basic x"]), Err(NoToken::Ambiguous));
    }
}
