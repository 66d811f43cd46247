//! A bounded cache of verified tokens, for one worker: a lookup costs a hash of the token's end and one comparison.
//!
//! It holds what depends on the token and the keys alone, such as an `Arc<ClaimsSet>`; time, policy and revocations
//! are checked for each request, after the lookup. It knows nothing of them, nor of JWTs.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

/// Bounded map from a token and a scope to a value; what was not used for longest goes first.
///
/// The scope says what the value was made with: [`crate::JwkSet::id`]. A token that was not verified at all
/// ([`crate::dangerous`]) needs a scope of its own, and one that is within another location's size limit may be past
/// this one's: look at its length first.
///
/// ```
/// use jwt_core::TokenCache;
///
/// let mut cache = TokenCache::new(64 * 1024);
/// cache.insert(b"token", 1, "value", 5);
/// assert_eq!(cache.get(b"token", 1), Some(&"value"));
/// assert_eq!(cache.get(b"token", 2), None, "other keys know nothing of it");
/// ```
pub struct TokenCache<V, S = RandomState> {
    /// Keyed at random: a client can't choose tokens that collide.
    hasher: S,
    /// Places in `entries`, by hash, with linear probing; a power of two in number and at most half of it used.
    table: Vec<u32>,
    entries: Vec<Entry<V>>,
    /// Used last.
    newest: u32,
    /// To go first.
    oldest: u32,
    bytes: usize,
    most_bytes: usize,
}

struct Entry<V> {
    hash: u64,
    scope: u64,
    token: Box<[u8]>,
    value: V,
    /// What this entry counts for.
    bytes: usize,
    newer: u32,
    older: u32,
}

/// No entry: the end of the list, or a free slot of the table.
const NONE: u32 = u32::MAX;

impl<V> TokenCache<V> {
    /// An empty cache. `most_bytes` bounds tokens, values and their places here; 0 keeps nothing.
    pub fn new(most_bytes: usize) -> Self {
        Self::with_hasher(most_bytes, RandomState::new())
    }
}

impl<V, S: BuildHasher> TokenCache<V, S> {
    /// As [`TokenCache::new`], with a hash of the caller's; one without a random key lets clients make lookups slow.
    pub fn with_hasher(most_bytes: usize, hasher: S) -> Self {
        Self {
            hasher,
            table: Vec::new(),
            entries: Vec::new(),
            newest: NONE,
            oldest: NONE,
            bytes: 0,
            most_bytes,
        }
    }

    /// The value of `token` in `scope`, which counts as used from now. Allocates nothing.
    pub fn get(&mut self, token: &[u8], scope: u64) -> Option<&V> {
        let hash = self.hash(token, scope);
        let place = self.find(hash, token, scope)?;
        if place != self.newest {
            self.unlink(place);
            self.link_newest(place);
        }
        Some(&self.entries[place as usize].value)
    }

    /// Keeps `value`, in place of an earlier one of the same token and scope. Older entries go until it fits; what is
    /// larger than the whole cache is not kept.
    ///
    /// `value_bytes` is what the value holds outside of itself.
    pub fn insert(&mut self, token: &[u8], scope: u64, value: V, value_bytes: usize) {
        let hash = self.hash(token, scope);
        if let Some(place) = self.find(hash, token, scope) {
            self.take(place);
        }
        let bytes = token.len().saturating_add(value_bytes).saturating_add(Self::ENTRY_BYTES);
        if bytes > self.most_bytes {
            return;
        }
        // Both are at most most_bytes: no overflow.
        while self.bytes > self.most_bytes - bytes {
            self.take(self.oldest);
        }
        let Ok(place) = u32::try_from(self.entries.len()) else { return };
        if place == NONE {
            return;
        }
        self.bytes += bytes;
        let token = token.into();
        self.entries.push(Entry { hash, scope, token, value, bytes, newer: NONE, older: NONE });
        self.link_newest(place);
        if self.entries.len() * 2 > self.table.len() {
            self.grow();
        } else {
            self.occupy(place);
        }
    }

    /// Forgets `token` in `scope`.
    pub fn remove(&mut self, token: &[u8], scope: u64) {
        if let Some(place) = self.find(self.hash(token, scope), token, scope) {
            self.take(place);
        }
    }

    /// How many tokens are kept.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no token is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes held by tokens, values and their places: never more than the cache was made for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Forgets everything and gives the memory back.
    pub fn clear(&mut self) {
        self.table = Vec::new();
        self.entries = Vec::new();
        (self.newest, self.oldest, self.bytes) = (NONE, NONE, 0);
    }

    /// An entry's place: itself in a vector that may be half full, and its share of a table that is at least a
    /// quarter full.
    const ENTRY_BYTES: usize = 2 * size_of::<Entry<V>>() + 4 * size_of::<u32>();

    /// Of the token's end alone, which is its signature: only verified tokens are kept, and nobody can make many of
    /// those with the same one. Equal hashes cost a comparison, never a wrong answer.
    fn hash(&self, token: &[u8], scope: u64) -> u64 {
        const TAIL: usize = 40;
        let mut hasher = self.hasher.build_hasher();
        hasher.write(&token[token.len().saturating_sub(TAIL)..]);
        hasher.write_u64(scope);
        hasher.finish()
    }

    /// Where in the table the probing for `hash` begins.
    fn home(&self, hash: u64) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "masked to the table's length")]
        let hash = hash as usize;
        hash & (self.table.len() - 1)
    }

    fn next(&self, slot: usize) -> usize {
        (slot + 1) & (self.table.len() - 1)
    }

    fn find(&self, hash: u64, token: &[u8], scope: u64) -> Option<u32> {
        if self.table.is_empty() {
            return None;
        }
        let mut slot = self.home(hash);
        loop {
            let place = self.table[slot];
            if place == NONE {
                return None;
            }
            let entry = &self.entries[place as usize];
            // The hash only saves comparisons: equal hashes prove nothing.
            if entry.hash == hash && entry.scope == scope && *entry.token == *token {
                return Some(place);
            }
            slot = self.next(slot);
        }
    }

    /// The slot that holds `place`, an entry of the cache.
    fn slot_of(&self, place: u32) -> usize {
        let mut slot = self.home(self.entries[place as usize].hash);
        while self.table[slot] != place {
            slot = self.next(slot);
        }
        slot
    }

    fn occupy(&mut self, place: u32) {
        let mut slot = self.home(self.entries[place as usize].hash);
        while self.table[slot] != NONE {
            slot = self.next(slot);
        }
        self.table[slot] = place;
    }

    fn grow(&mut self) {
        let slots = (self.entries.len() * 4).next_power_of_two().max(16);
        self.table = vec![NONE; slots];
        for place in 0..self.entries.len() {
            #[expect(clippy::cast_possible_truncation, reason = "insert keeps places below NONE")]
            self.occupy(place as u32);
        }
    }

    fn take(&mut self, place: u32) {
        self.unlink(place);
        self.vacate(self.slot_of(place));
        #[expect(clippy::cast_possible_truncation, reason = "insert keeps places below NONE")]
        let last = (self.entries.len() - 1) as u32;
        if place != last {
            // The last entry moves here: all that name it must know.
            let slot = self.slot_of(last);
            self.table[slot] = place;
            let Entry { newer, older, .. } = self.entries[last as usize];
            match newer {
                NONE => self.newest = place,
                newer => self.entries[newer as usize].older = place,
            }
            match older {
                NONE => self.oldest = place,
                older => self.entries[older as usize].newer = place,
            }
        }
        self.bytes -= self.entries.swap_remove(place as usize).bytes;
    }

    /// Frees `hole`. Later entries of the same run of slots move up, or a probe would end before it meets them.
    fn vacate(&mut self, mut hole: usize) {
        let mask = self.table.len() - 1;
        let mut slot = hole;
        loop {
            slot = self.next(slot);
            let place = self.table[slot];
            if place == NONE {
                break;
            }
            let home = self.home(self.entries[place as usize].hash);
            // It may move where its own probing still passes: not before its home.
            if slot.wrapping_sub(home) & mask >= slot.wrapping_sub(hole) & mask {
                self.table[hole] = place;
                hole = slot;
            }
        }
        self.table[hole] = NONE;
    }

    fn unlink(&mut self, place: u32) {
        let Entry { newer, older, .. } = self.entries[place as usize];
        match newer {
            NONE => self.newest = older,
            newer => self.entries[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.entries[older as usize].newer = newer,
        }
    }

    fn link_newest(&mut self, place: u32) {
        let entry = &mut self.entries[place as usize];
        (entry.newer, entry.older) = (NONE, self.newest);
        match self.newest {
            NONE => self.oldest = place,
            newest => self.entries[newest as usize].newer = place,
        }
        self.newest = place;
    }
}

// By hand: the derived one would print tokens.
impl<V, S> std::fmt::Debug for TokenCache<V, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenCache")
            .field("len", &self.entries.len())
            .field("bytes", &self.bytes)
            .field("most_bytes", &self.most_bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasherDefault;

    use proptest::prelude::*;

    use super::*;

    /// A hash of few values: every token shares its hash with others.
    #[derive(Default)]
    struct Coarse(u64);

    impl Hasher for Coarse {
        fn write(&mut self, bytes: &[u8]) {
            self.0 = bytes.iter().fold(self.0, |hash, byte| (hash + u64::from(*byte)) % 5);
        }
        // The same for each scope of a token.
        fn write_u64(&mut self, _: u64) {}
        fn finish(&self) -> u64 {
            // Near the end of the table too, so that runs of slots wrap around.
            u64::MAX - self.0
        }
    }

    type Colliding = TokenCache<u32, BuildHasherDefault<Coarse>>;

    const ENTRY: usize = TokenCache::<u32>::ENTRY_BYTES;

    #[test]
    fn a_token_larger_than_the_cache_is_not_kept_and_evicts_nothing() {
        let mut cache = TokenCache::new(ENTRY + 10);
        cache.insert(b"0123456789", 1, 1_u32, 0);
        cache.insert(b"0123456789A", 1, 2, 0);
        cache.insert(b"a", 1, 3, usize::MAX);
        assert_eq!((cache.len(), cache.bytes()), (1, ENTRY + 10));
        assert_eq!(cache.get(b"0123456789", 1), Some(&1));
        cache.insert(b"0123456789", 1, 4, 1);
        assert!(cache.is_empty(), "an older value must not outlive the newer one");
        let mut none = TokenCache::new(0);
        none.insert(b"", 1, 1_u32, 0);
        assert!(none.is_empty());
    }

    #[test]
    fn a_scope_is_part_of_the_key() {
        let mut cache = TokenCache::new(10 * ENTRY);
        cache.insert(b"t", 1, 1_u32, 0);
        cache.insert(b"t", 2, 2, 0);
        assert_eq!((cache.len(), cache.get(b"t", 1)), (2, Some(&1)));
        cache.remove(b"t", 1);
        assert_eq!((cache.get(b"t", 1).copied(), cache.get(b"t", 2).copied()), (None, Some(2)));
        cache.clear();
        assert_eq!((cache.bytes(), cache.get(b"t", 2)), (0, None));
        cache.insert(b"t", 2, 3, 0);
        assert_eq!(cache.get(b"t", 2), Some(&3));
    }

    #[test]
    fn the_text_for_debugging_holds_no_token() {
        let mut cache = TokenCache::new(10 * ENTRY);
        cache.insert(b"canary", 1, "canary", 0);
        assert!(!format!("{cache:?}").contains("canary"));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Get(u8, u64),
        Insert(u8, u64, u32, usize),
        Remove(u8, u64),
        Clear,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0..40_u8, 0..2_u64).prop_map(|(token, scope)| Step::Get(token, scope)),
            8 => (0..40_u8, 0..2_u64, any::<u32>(), 0..100_usize)
                .prop_map(|(token, scope, value, bytes)| Step::Insert(token, scope, value, bytes)),
            4 => (0..40_u8, 0..2_u64).prop_map(|(token, scope)| Step::Remove(token, scope)),
            1 => Just(Step::Clear),
        ]
    }

    /// The naive one: a list, the newest at its end.
    #[derive(Default)]
    struct Model {
        entries: Vec<(Vec<u8>, u64, u32, usize)>,
    }

    impl Model {
        fn remove(&mut self, token: &[u8], scope: u64) -> Option<(Vec<u8>, u64, u32, usize)> {
            let at = self.entries.iter().position(|e| e.0 == token && e.1 == scope)?;
            Some(self.entries.remove(at))
        }

        fn bytes(&self) -> usize {
            self.entries.iter().map(|e| e.3).sum()
        }
    }

    fn agrees<S: BuildHasher>(mut cache: TokenCache<u32, S>, most: usize, steps: Vec<Step>) {
        // Of different lengths, also empty.
        let token = |n: u8| vec![n; usize::from(n) % 7];
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Get(n, scope) => {
                    let expected = model.remove(&token(n), scope);
                    assert_eq!(
                        cache.get(&token(n), scope).copied(),
                        expected.as_ref().map(|e| e.2)
                    );
                    model.entries.extend(expected);
                }
                Step::Insert(n, scope, value, extra) => {
                    cache.insert(&token(n), scope, value, extra);
                    model.remove(&token(n), scope);
                    let bytes = token(n).len() + extra + ENTRY;
                    if bytes <= most {
                        while model.bytes() + bytes > most {
                            model.entries.remove(0);
                        }
                        model.entries.push((token(n), scope, value, bytes));
                    }
                }
                Step::Remove(n, scope) => {
                    cache.remove(&token(n), scope);
                    model.remove(&token(n), scope);
                }
                Step::Clear => {
                    cache.clear();
                    model.entries.clear();
                }
            }
            assert_eq!((cache.len(), cache.bytes()), (model.entries.len(), model.bytes()));
            assert!(cache.bytes() <= most);
        }
        // And in the same order.
        for (token, scope, value, _) in &model.entries {
            assert_eq!(cache.entries[cache.oldest as usize].value, *value);
            assert_eq!(cache.get(token, *scope), Some(value));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn it_does_what_a_list_would_do(
            entries in 0..30_usize,
            steps in prop::collection::vec(step(), 0..300),
        ) {
            let most = entries * ENTRY + entries * 20;
            agrees(TokenCache::new(most), most, steps);
        }

        #[test]
        fn equal_hashes_are_told_apart(
            entries in 0..30_usize,
            steps in prop::collection::vec(step(), 0..300),
        ) {
            let most = entries * ENTRY + entries * 20;
            let cache: Colliding = TokenCache::with_hasher(most, BuildHasherDefault::default());
            agrees(cache, most, steps);
        }
    }
}
