//! One access token that is kept fresh: fetched by one exchange at a time, renewed before it expires.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::error::TokenError;
use crate::clock::Clock;
use crate::pause::random_up_to;
use crate::secret::Secret;

/// Shortest and longest pause after an exchange that failed while the token at hand is still good.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(15));

/// The longest pause that a service can ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// A token, and who may fetch the next one. Cheap to clone; clones share the token.
#[derive(Clone, Default)]
pub(crate) struct Tokens(Arc<Shared>);

#[derive(Default)]
struct Shared {
    access: Mutex<Option<Access>>,
    /// Held during an exchange. It keeps how the last one failed, for those who waited for it.
    turn: Arc<tokio::sync::Mutex<Option<Failure>>>,
}

struct Failure {
    at: Instant,
    error: TokenError,
}

/// An access token, and when it ends. Times are Unix seconds.
#[derive(Clone)]
pub(crate) struct Access {
    jwt: Secret,
    /// From here on a new one is asked for.
    renew_at: i64,
    /// From here on this one is useless.
    expires_at: i64,
}

impl Tokens {
    /// Begins with a token that is there already.
    pub(crate) fn starting_with(access: Option<Access>) -> Self {
        Self(Arc::new(Shared { access: Mutex::new(access), turn: Arc::default() }))
    }

    /// The token, fetched by what `exchange` makes if there is none.
    ///
    /// An exchange is a task of its own: when the caller is dropped in the middle it goes on, so that no refresh
    /// token is lost that the service has replaced meanwhile. A token that is due but still good is returned at
    /// once, and renewed beside.
    pub(crate) async fn token<F>(&self, exchange: impl FnOnce() -> F) -> Result<Secret, TokenError>
    where
        F: Future<Output = Result<Access, TokenError>> + Send + 'static,
    {
        if let Some((jwt, due)) = self.0.good() {
            if due && let Ok(turn) = self.0.turn.clone().try_lock_owned()
                // The one whose turn it was may just have renewed it.
                && self.0.good().is_none_or(|(_, due)| due)
            {
                tokio::spawn(self.0.clone().run(turn, exchange()));
            }
            return Ok(jwt);
        }
        let asked = Instant::now();
        let turn = self.0.turn.clone().lock_owned().await;
        if let Some((jwt, _)) = self.0.good() {
            return Ok(jwt);
        }
        // Whoever waits for an exchange waits for its failure too: another one for each of them would take as
        // long again, one after the other.
        if let Some(failure) = turn.as_ref().filter(|failure| failure.at >= asked) {
            return Err(failure.error.clone());
        }
        let task = tokio::spawn(self.0.clone().run(turn, exchange()));
        task.await.unwrap_or(Err(TokenError::Aborted))
    }

    /// Forgets `jwt`, but not one that was fetched meanwhile.
    pub(crate) fn discard(&self, jwt: &Secret) {
        self.0.access().take_if(|access| access.jwt.expose() == jwt.expose());
    }
}

impl Shared {
    fn access(&self) -> MutexGuard<'_, Option<Access>> {
        self.access.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token, if it is still good, and whether it is time for the next one.
    fn good(&self) -> Option<(Secret, bool)> {
        let now = Clock::system().unix_now();
        let access = self.access();
        let access = access.as_ref().filter(|access| now < access.expires_at)?;
        Some((access.jwt.clone(), now >= access.renew_at))
    }

    async fn run(
        self: Arc<Self>,
        mut turn: OwnedMutexGuard<Option<Failure>>,
        exchange: impl Future<Output = Result<Access, TokenError>>,
    ) -> Result<Secret, TokenError> {
        match exchange.await {
            Ok(new) => {
                let jwt = new.jwt.clone();
                *self.access() = Some(new);
                *turn = None;
                Ok(jwt)
            }
            Err(error) => {
                let now = Clock::system().unix_now();
                if let Some(access) = self.access().as_mut().filter(|a| now < a.expires_at) {
                    // The service may be away for a while; the token that we have still counts.
                    tracing::warn!("the token could not be renewed yet: {error}");
                    let pause = PAUSE.0 + random_up_to(PAUSE.1 - PAUSE.0);
                    let asked_for = error.retry_after().unwrap_or_default().min(LONGEST_PAUSE);
                    let pause = pause.max(asked_for);
                    access.renew_at = now.saturating_add(seconds(pause));
                }
                *turn = Some(Failure { at: Instant::now(), error: error.clone() });
                Err(error)
            }
        }
    }
}

impl Access {
    /// Reads when `jwt` ends. Unverified: it only decides when to ask for the next one.
    ///
    /// # Errors
    /// [`TokenError::NotAToken`].
    pub(crate) fn new(jwt: Option<&Value>) -> Result<Self, TokenError> {
        let jwt = jwt.and_then(Value::as_str).ok_or(TokenError::NotAToken)?;
        let expires_at = expiry(jwt).ok_or(TokenError::NotAToken)?;
        let now = Clock::system().unix_now();
        let life = Duration::from_secs(expires_at.saturating_sub(now).try_into().unwrap_or(0));
        // Between 70 and 80 % of the life that is left: long before any clock can disagree about the end, and not
        // when everybody else does whose token is from the same minute, such as the one after the gateway's restart.
        let renew_at = now.saturating_add(seconds(life / 5 * 4 - random_up_to(life / 10)));
        Ok(Self { jwt: Secret::new(jwt), renew_at, expires_at })
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

fn expiry(jwt: &str) -> Option<i64> {
    let payload = URL_SAFE_NO_PAD.decode(jwt.split('.').nth(1)?).ok()?;
    let claims: Value = serde_json::from_slice(&payload).ok()?;
    let exp = claims.get("exp")?;
    #[expect(clippy::cast_possible_truncation, reason = "a float past i64 saturates")]
    exp.as_i64().or_else(|| exp.as_f64().map(|exp| exp as i64)).filter(|exp| *exp >= 0)
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;
    use tokio::sync::Notify;

    use super::*;

    /// A token that ends in `life` seconds.
    pub(in crate::client) fn jwt(life: i64) -> String {
        let claims = json!({"exp": Clock::system().unix_now() + life}).to_string();
        format!("h.{}.s", URL_SAFE_NO_PAD.encode(claims))
    }

    fn access(life: i64) -> Access {
        Access::new(Some(&json!(jwt(life)))).unwrap()
    }

    fn unreachable() -> TokenError {
        TokenError::Unreachable { url: "u".into(), source: Arc::new(std::io::Error::other("away")) }
    }

    #[test]
    fn a_token_is_renewed_between_70_and_80_percent_of_its_life_and_not_when_all_others_are() {
        let now = Clock::system().unix_now();
        let times: Vec<_> = (0..50).map(|_| access(1_000).renew_at - now).collect();
        assert!(times.iter().all(|time| (699..=802).contains(time)), "{times:?}");
        assert!(times.iter().max().unwrap() - times.iter().min().unwrap() > 10, "{times:?}");
        // A clock that is past the end already, and ends that no clock reaches.
        assert!(access(-10).renew_at <= Clock::system().unix_now());
        for exp in [json!(i64::MAX), json!(1e300)] {
            let jwt = format!("h.{}.s", URL_SAFE_NO_PAD.encode(json!({"exp": exp}).to_string()));
            assert_eq!(Access::new(Some(&json!(jwt))).unwrap().expires_at, i64::MAX);
        }
        for bad in [json!("a.b.c"), json!(null), json!("x"), json!("h.e30.s")] {
            assert!(matches!(Access::new(Some(&bad)), Err(TokenError::NotAToken)), "{bad}");
        }
    }

    #[tokio::test]
    async fn all_who_wait_share_one_exchange_and_its_failure() {
        let tokens = Tokens::default();
        let exchanges = Arc::new(AtomicUsize::new(0));
        let ask = |outcome: Result<Access, TokenError>| {
            let (tokens, exchanges) = (tokens.clone(), exchanges.clone());
            async move {
                let exchange = || async move {
                    exchanges.fetch_add(1, Ordering::SeqCst);
                    // All of them are waiting by then.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    outcome
                };
                tokens.token(exchange).await
            }
        };
        let failed = futures_util::future::join_all((0..10).map(|_| ask(Err(unreachable())))).await;
        assert!(failed.iter().all(|result| matches!(result, Err(TokenError::Unreachable { .. }))));
        assert_eq!(exchanges.load(Ordering::SeqCst), 1);
        // The failure is not kept for who asks later.
        let good = futures_util::future::join_all((0..10).map(|_| ask(Ok(access(1_000))))).await;
        assert!(good.iter().all(|result| result.is_ok()), "{good:?}");
        assert_eq!(exchanges.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn an_exchange_ends_without_its_caller() {
        let tokens = Tokens::default();
        let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let caller = {
            let (tokens, begun, go) = (tokens.clone(), begun.clone(), go.clone());
            tokio::spawn(async move {
                let exchange = || async move {
                    begun.notify_one();
                    go.notified().await;
                    Ok(access(1_000))
                };
                tokens.token(exchange).await
            })
        };
        begun.notified().await;
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        go.notify_one();
        let none = || async { Err(TokenError::Nothing) };
        assert!(tokens.token(none).await.is_ok());
    }

    #[tokio::test]
    async fn a_good_token_is_at_hand_while_its_successor_is_late_or_does_not_come() {
        let mut due = access(1_000);
        due.renew_at = 0;
        let old = due.jwt.clone();
        let tokens = Tokens::starting_with(Some(due));
        let failed = Arc::new(Notify::new());
        let telling = failed.clone();
        let fails = || async move {
            telling.notify_one();
            Err(unreachable())
        };
        assert_eq!(tokens.token(fails).await.unwrap().expose(), old.expose());
        failed.notified().await;
        // Its turn is over, and the next try is put off.
        drop(tokens.0.turn.lock().await);
        let never = || async { panic!("the service is asked again at once") };
        assert_eq!(tokens.token(never).await.unwrap().expose(), old.expose());
        let renew_at = tokens.0.access().as_ref().unwrap().renew_at;
        let wait = renew_at - Clock::system().unix_now();
        assert!((4..=15).contains(&wait), "{wait}");
        // Later it comes.
        tokens.0.access().as_mut().unwrap().renew_at = 0;
        tokens.token(|| async { Ok(access(2_000)) }).await.unwrap();
        let renewed = async {
            while tokens.0.good().is_some_and(|(jwt, _)| jwt.expose() == old.expose()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), renewed).await.unwrap();
        // What was refused is forgotten, and what came after it is not.
        tokens.discard(&old);
        assert!(tokens.0.good().is_some());
        let (new, _) = tokens.0.good().unwrap();
        tokens.discard(&new);
        assert!(tokens.0.good().is_none());
    }
}
