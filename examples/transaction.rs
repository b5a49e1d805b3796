//! A database transaction in an arena: new versions of rows, changes to an index, and the log that holds them together lie
//! side by side, and end in one step. A savepoint is an arena inside it.
//!
//! ```text
//! cargo run --no-default-features --example transaction
//! ```

use maas::memory::{Arena, ArenaConfig, ArenaError, Config, Heap, Kin};
use std::collections::BTreeMap;
use std::error::Error;
use std::str;

const ACCOUNTS: u64 = 1000;
/// What a transaction is expected to need, and may use at most.
const ARENA: ArenaConfig = ArenaConfig { initial_bytes: 64 << 10, limit_bytes: 1 << 20 };

fn main() -> Result<(), Box<dyn Error>> {
    let heap = Heap::new(&Config { max_pool_size: 16 << 20, ..Config::default() })?;
    let mut database = Database::default();
    for key in 0..ACCOUNTS {
        database.rows.insert(key, row(&format!("customer {key}"), 100));
        database.keys.insert(format!("customer {key}"), key);
    }

    // Every account gets interest, and one a new name.
    let transaction = heap.arena(ARENA)?;
    let mut log = None;
    for key in 0..ACCOUNTS {
        let (name, balance) = database.read(log, key)?;
        log = change(&transaction, log, key, &row(name, balance + balance / 20))?;
    }
    log = rename(&transaction, log, &database, 7, "Customer Seven")?;
    println!("a transaction: {}", tell(&transaction));

    // What is tried inside of a savepoint is forgotten with it; the transaction goes on.
    let savepoint = transaction.child(ArenaConfig { initial_bytes: 0, ..ARENA })?;
    let mut tried = log;
    for key in 0..10 {
        tried = rename(&savepoint, tried, &database, key, &format!("customer {}", key + 1))?;
    }
    println!("a savepoint: {}", tell(&savepoint));
    assert_eq!(database.read(tried, 7)?.0, "customer 8");
    let freed = savepoint.rollback();
    println!("two accounts with one name: {} pieces rolled back", freed.freed_allocations);
    assert_eq!(database.read(log, 7)?, ("Customer Seven", 105));
    println!("the transaction goes on: {}", tell(&transaction));

    let changes = database.apply(log);
    let freed = transaction.commit();
    println!(
        "committed: {changes} changes; {} pieces, {} bytes freed",
        freed.freed_allocations, freed.freed_bytes
    );
    assert_eq!((database.keys.get("Customer Seven"), database.keys.get("customer 7")), (Some(&7), None));

    // An early return drops the arena, and that rolls it back.
    let refused = endless(&heap, &database).expect_err("it has a limit");
    println!("an endless one: {refused}");
    println!("left in the heap: {} bytes", heap.in_use_bytes());
    Ok(())
}

fn tell<K: Kin>(arena: &Arena<'_, K>) -> String {
    format!(
        "{} pieces, {} bytes in chunks of {}",
        arena.allocations(),
        arena.used_bytes(),
        arena.chunk_bytes()
    )
}

/// Changes rows until that is refused.
fn endless(heap: &Heap, database: &Database) -> Result<(), Box<dyn Error>> {
    let transaction = heap.arena(ARENA)?;
    let mut log = None;
    for key in (0..ACCOUNTS).cycle() {
        let (name, balance) = database.read(None, key)?;
        log = change(&transaction, log, key, &row(name, balance + 1))?;
    }
    Ok(())
}

/// A row: eight bytes of balance, then the owner's name.
fn row(name: &str, balance: u64) -> Vec<u8> {
    [&balance.to_le_bytes(), name.as_bytes()].concat()
}

/// One change of a transaction. All that it points to lies in the transaction's arena, or in that of one around it.
#[derive(Clone, Copy)]
struct Change<'a> {
    what: What<'a>,
    /// The change before this one.
    before: Log<'a>,
}

#[derive(Clone, Copy)]
enum What<'a> {
    Row { key: u64, row: &'a [u8] },
    Name { key: u64, old: &'a str, new: &'a str },
}

/// The last change; none where there is none yet.
type Log<'a> = Option<&'a Change<'a>>;

fn change<'a, K: Kin>(
    arena: &'a Arena<'_, K>,
    before: Log<'a>,
    key: u64,
    row: &[u8],
) -> Result<Log<'a>, ArenaError> {
    let what = What::Row { key, row: arena.allocate_copy(row)? };
    Ok(Some(arena.allocate_value(Change { what, before })?))
}

/// A new name for an account: in its row, and in the index.
fn rename<'a, K: Kin>(
    arena: &'a Arena<'_, K>,
    before: Log<'a>,
    database: &Database,
    key: u64,
    name: &str,
) -> Result<Log<'a>, Box<dyn Error>> {
    let (old, balance) = database.read(before, key)?;
    let keep = |name: &str| -> Result<&'a str, Box<dyn Error>> {
        Ok(str::from_utf8(arena.allocate_copy(name.as_bytes())?)?)
    };
    let what = What::Name { key, old: keep(old)?, new: keep(name)? };
    let renamed = arena.allocate_value(Change { what, before })?;
    Ok(change(arena, Some(renamed), key, &row(name, balance))?)
}

/// What is committed.
#[derive(Default)]
struct Database {
    rows: BTreeMap<u64, Vec<u8>>,
    /// The index: accounts by their owner's name.
    keys: BTreeMap<String, u64>,
}

impl Database {
    /// Name and balance of an account, as a transaction sees them that did this.
    fn read<'a>(&'a self, log: Log<'a>, key: u64) -> Result<(&'a str, u64), Box<dyn Error>> {
        let changes = std::iter::successors(log, |change| change.before);
        let mut changed = changes.filter_map(|change| match change.what {
            What::Row { key: of, row } if of == key => Some(row),
            _ => None,
        });
        let row = changed.next().or_else(|| Some(self.rows.get(&key)?.as_slice()));
        let (balance, name) =
            row.and_then(|row| row.split_first_chunk()).ok_or("there is no such account")?;
        Ok((str::from_utf8(name)?, u64::from_le_bytes(*balance)))
    }

    /// Makes the changes, the first one first, and returns how many there were.
    fn apply(&mut self, log: Log<'_>) -> usize {
        let mut changes: Vec<_> = std::iter::successors(log, |change| change.before).collect();
        changes.reverse();
        for change in &changes {
            match change.what {
                What::Row { key, row } => {
                    self.rows.insert(key, row.to_vec());
                }
                What::Name { key, old, new } => {
                    self.keys.remove(old);
                    self.keys.insert(new.to_owned(), key);
                }
            }
        }
        changes.len()
    }
}
