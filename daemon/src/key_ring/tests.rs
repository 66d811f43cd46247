//! The life of keys, with a clock that the test sets.

use std::path::Path;
use std::time::UNIX_EPOCH;

use super::*;
use crate::config::{GivenKey, RsaBits, SigningAlgorithm};

struct Fixture {
    root: tempfile::TempDir,
    now: Arc<AtomicU64>,
    settings: Settings,
}

impl Fixture {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let settings = Settings {
            keys: Keys {
                directory: root.path().join("keys"),
                algorithm: SigningAlgorithm::Es256,
                rsa_bits: RsaBits::B2048,
                announce_for: Duration::from_secs(300),
                rotate_every: Duration::ZERO,
                encryption_key_file: None,
                given: None,
            },
            jwks_file: root.path().join("public/jwks.json"),
            jwt_lifetime: Duration::from_secs(1_000),
            leeway: Duration::from_secs(60),
        };
        Self { root, now: Arc::new(AtomicU64::new(1_000_000)), settings }
    }

    fn open(&self) -> KeyRing {
        self.try_open().unwrap()
    }

    fn try_open(&self) -> Result<KeyRing, RingError> {
        let now = self.now.clone();
        let clock =
            Clock::from_fn(move || UNIX_EPOCH + Duration::from_secs(now.load(Ordering::Relaxed)));
        KeyRing::open(self.settings.clone(), clock, None)
    }

    fn pass(&self, seconds: u64) {
        self.now.fetch_add(seconds, Ordering::Relaxed);
    }

    fn kids_in_file(&self) -> Vec<String> {
        let text = std::fs::read(&self.settings.jwks_file).unwrap();
        JwkSet::parse(&text).unwrap().kids().map(str::to_owned).collect()
    }
}

fn key_files(folder: &Path) -> usize {
    std::fs::read_dir(folder)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|e| e == "pem"))
        .count()
}

#[test]
fn the_first_key_signs_at_once_and_stays_over_a_restart() {
    let fixture = Fixture::new();
    let kid = fixture.open().signing().kid().to_owned();
    assert_eq!(fixture.kids_in_file(), std::slice::from_ref(&kid));
    std::fs::remove_file(&fixture.settings.jwks_file).unwrap();
    assert_eq!(fixture.open().signing().kid(), kid);
    assert_eq!(fixture.kids_in_file(), [kid]);
}

#[test]
fn k5_a_key_is_announced_signs_retires_and_goes() {
    let fixture = Fixture::new();
    let ring = fixture.open();
    let old = ring.signing().kid().to_owned();
    let rotation = ring.rotate(When::Announced).unwrap();
    assert_eq!(rotation.signs_at, 1_000_300);
    let new = rotation.kid.clone();
    assert_eq!(fixture.kids_in_file().len(), 2);
    assert_eq!(ring.live().load().len(), 2);
    // A second wish changes nothing, `Now` brings it forward, but not before ten seconds.
    assert_eq!(ring.rotate(When::Announced).unwrap(), rotation);
    assert_eq!(ring.rotate(When::Now).unwrap().signs_at, 1_000_010);
    fixture.pass(9);
    ring.step().unwrap();
    assert_eq!(ring.signing().kid(), old);
    fixture.pass(1);
    ring.step().unwrap();
    assert_eq!(ring.signing().kid(), new);
    // The last token of the old key may have been signed now: life, leeway, work in flight.
    fixture.pass(1_000 + 60 + 60 - 1);
    ring.step().unwrap();
    assert_eq!(fixture.kids_in_file(), [new.clone(), old]);
    fixture.pass(1);
    ring.step().unwrap();
    assert_eq!(fixture.kids_in_file(), [new]);
    assert_eq!(ring.published().keys.len(), 1);
    assert_eq!(key_files(&fixture.settings.keys.directory), 1);
}

#[test]
fn every_state_survives_a_restart() {
    let fixture = Fixture::new();
    let old = fixture.open().signing().kid().to_owned();
    let new = fixture.open().rotate(When::Now).unwrap().kid;
    let ring = fixture.open();
    assert_eq!(ring.signing().kid(), old);
    fixture.pass(10);
    ring.step().unwrap();
    let ring = fixture.open();
    assert_eq!(ring.signing().kid(), new);
    assert_eq!(fixture.kids_in_file(), [new.clone(), old]);
    fixture.pass(1_120);
    ring.step().unwrap();
    fixture.open();
    assert_eq!(fixture.kids_in_file(), [new]);
}

#[test]
fn a_shorter_token_life_does_not_shorten_the_stay_of_a_key_that_signed_longer_ones() {
    let mut fixture = Fixture::new();
    fixture.open();
    fixture.settings.jwt_lifetime = Duration::from_secs(10);
    let ring = fixture.open();
    ring.rotate(When::Now).unwrap();
    fixture.pass(10);
    ring.step().unwrap();
    fixture.pass(1_000);
    ring.step().unwrap();
    assert_eq!(fixture.kids_in_file().len(), 2);
}

#[test]
fn a_changed_algorithm_is_announced_like_any_rotation() {
    let mut fixture = Fixture::new();
    let old = fixture.open().signing().kid().to_owned();
    fixture.settings.keys.algorithm = SigningAlgorithm::EdDsa;
    let ring = fixture.open();
    assert_eq!(ring.signing().kid(), old);
    assert_eq!(fixture.kids_in_file().len(), 2);
    // Not once more at every start.
    let ring = fixture.open();
    assert_eq!(fixture.kids_in_file().len(), 2);
    fixture.pass(300);
    ring.step().unwrap();
    assert_eq!(ring.signing().algorithm(), SigningAlgorithm::EdDsa);
}

#[test]
fn f14_a_rotation_that_cannot_be_published_does_not_happen() {
    let fixture = Fixture::new();
    let ring = fixture.open();
    let kid = ring.signing().kid().to_owned();
    let file = &fixture.settings.jwks_file;
    std::fs::remove_file(file).unwrap();
    std::fs::create_dir(file).unwrap();
    assert!(matches!(ring.rotate(When::Now), Err(RingError::Jwks { .. })));
    fixture.pass(1_000);
    ring.step().unwrap();
    assert_eq!(ring.signing().kid(), kid);
    assert_eq!(ring.published().keys.len(), 1);
    assert_eq!(key_files(&fixture.settings.keys.directory), 1);
}

#[test]
fn t38_a_given_pair_is_made_read_again_and_never_overwritten() {
    let mut fixture = Fixture::new();
    fixture.settings.keys.algorithm = SigningAlgorithm::Rs256;
    let public = fixture.root.path().join("a.pub");
    let private = fixture.root.path().join("a.pem");
    let files = GivenKey::Files { public: public.clone(), private: Some(private.clone()) };
    fixture.settings.keys.given = Some(files);
    let ring = fixture.open();
    let kid = ring.signing().kid().to_owned();
    assert!(matches!(ring.rotate(When::Now), Err(RingError::Pinned)));
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(&private).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode, 0o600);
    assert_eq!(fixture.open().signing().kid(), kid);
    let before = std::fs::read(&private).unwrap();
    std::fs::rename(&public, fixture.root.path().join("b.pub")).unwrap();
    let error = fixture.try_open().err().unwrap().to_string();
    assert!(error.contains("openssl pkey"), "{error}");
    assert_eq!(std::fs::read(&private).unwrap(), before);
    // A public key of another pair.
    let other = SigningKey::generate(SigningAlgorithm::Rs256, RsaBits::B2048).unwrap();
    std::fs::write(&public, other.to_public_pem().unwrap()).unwrap();
    assert!(fixture.try_open().err().unwrap().to_string().contains("is not the public key of"));
}

#[test]
fn k5_the_schedule_announces_in_time_and_one_key_at_a_time() {
    let mut fixture = Fixture::new();
    fixture.settings.keys.rotate_every = Duration::from_secs(3_600);
    let ring = fixture.open();
    let first = ring.signing().kid().to_owned();
    // Announced so that it signs when the present one has signed for an hour.
    fixture.pass(3_600 - 300 - 1);
    ring.step().unwrap();
    assert_eq!(fixture.kids_in_file(), std::slice::from_ref(&first));
    fixture.pass(1);
    ring.step().unwrap();
    ring.step().unwrap();
    assert_eq!(fixture.kids_in_file().len(), 2);
    // The schedule survives a restart.
    let ring = fixture.open();
    fixture.pass(299);
    ring.step().unwrap();
    assert_eq!(ring.signing().kid(), first);
    fixture.pass(1);
    ring.step().unwrap();
    assert_ne!(ring.signing().kid(), first);
    // rel:F16: a clock that is set far ahead makes one rotation, not many.
    fixture.pass(365 * 86_400);
    ring.step().unwrap();
    assert_eq!(fixture.kids_in_file().len(), 2, "the signing key and its successor");
    let signing = ring.signing().kid().to_owned();
    fixture.pass(299);
    ring.step().unwrap();
    assert_eq!(ring.signing().kid(), signing);
}

#[test]
fn k12_an_emergency_drops_the_old_key_at_once_and_for_good() {
    let fixture = Fixture::new();
    let ring = fixture.open();
    let old = ring.signing().kid().to_owned();
    let announced = ring.rotate(When::Announced).unwrap().kid;
    let rotation = ring.rotate(When::Emergency).unwrap();
    assert_eq!(rotation.signs_at, 1_000_000);
    let mut dropped = rotation.dropped.clone();
    dropped.sort();
    let mut expected = [old, announced];
    expected.sort();
    assert_eq!(dropped, expected);
    assert_eq!(ring.signing().kid(), rotation.kid);
    assert_eq!(fixture.kids_in_file(), std::slice::from_ref(&rotation.kid));
    assert_eq!(ring.live().load().len(), 1);
    assert_eq!(key_files(&fixture.settings.keys.directory), 1);
    assert_eq!(fixture.open().signing().kid(), rotation.kid);
}

#[test]
fn rotating_without_end_stops_before_the_jwks_is_too_large() {
    let fixture = Fixture::new();
    let ring = fixture.open();
    let mut rotations = 1;
    let error = loop {
        if let Err(error) = ring.rotate(When::Now) {
            break error;
        }
        rotations += 1;
        fixture.pass(10);
        ring.step().unwrap();
        assert!(rotations <= 100);
    };
    assert!(matches!(error, RingError::TooMany(100)), "{error}");
    assert_eq!(fixture.kids_in_file().len(), 100);
}
