"""Adds refresh tokens to a daemon's SQLite database, which nobody has open: fill.py FILE ROWS.

The token of row N is the hex SHA-512 of N in decimal, so that some can be asked for later. Without the indexes, which
are made anew at the end, as for each row a random page of them would be changed.
"""

import hashlib
import sqlite3
import sys


def digest(number):
    token = hashlib.sha512(b"%d" % number).hexdigest()
    return ("h1$" + hashlib.sha256(token.encode()).hexdigest(),)


path, count = sys.argv[1], int(sys.argv[2])
database = sqlite3.connect(path, isolation_level=None)
# It is a copy that nobody misses.
for pragma in ("journal_mode = DELETE", "journal_mode = OFF", "synchronous = OFF", "cache_size = -262144"):
    database.execute(f"PRAGMA {pragma}")
indexes = database.execute(
    "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'refresh_tokens' AND sql IS NOT NULL"
).fetchall()
database.execute("BEGIN")
for name, _ in indexes:
    database.execute(f"DROP INDEX {name}")
database.executemany(
    "INSERT INTO refresh_tokens (token, key_id, created, expires_at) "
    "SELECT ?, min(id), '2026-01-01 00:00:00.000000', '2099-01-01 00:00:00.000000' FROM keys",
    map(digest, range(count)),
)
for _, sql in indexes:
    database.execute(sql)
database.execute("COMMIT")
database.execute("PRAGMA journal_mode = WAL")
