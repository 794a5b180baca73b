"""The tables and statements of an index in PostgreSQL, all in one place.

Every index has a schema. In it, `editions` says what there is: each edition is a set of tables for one model, and one
of them is live. An index that is made anew grows as a new edition beside the live one.

What is published is told by numbers, so that publishing is one short transaction. Rows of chunks get rising ids: those
above the edition's `mark` are not published yet. Chunks that are dropped stay, and `gone` says with which generation
they ended: readers of the generation before still see them, and the publication after the next one removes them. A
reader of generation g, with its mark, sees the chunks with `id <= mark` that have not gone by g.

A chunk lies in three tables by what reads it: `chunks` has what a search by vectors scans, `words` what one by words
does, and `texts` what is shown of the few that were found. `{n}` is the edition's number, `{dim}` the vectors' size.
"""

from __future__ import annotations

FORMAT = 1
"""Version of these tables."""

FIND_EDITIONS = "SELECT to_regclass(quote_ident(%(schema)s) || '.editions') IS NOT NULL"
FOREIGN_TABLES = """
    SELECT count(*) FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = %(schema)s
"""
SCHEMA_EXISTS = "SELECT count(*) FROM pg_namespace WHERE nspname = %(schema)s"
LOCK = "SELECT pg_advisory_lock(%(key)s)"
LOCK_WAIT = "SELECT set_config('lock_timeout', %(wait)s, false)"
BRIEF_LOCK_WAIT = "SELECT set_config('lock_timeout', '1s', true)"  # a later writer tries again

CREATE_EDITIONS = """
    CREATE TABLE editions (
        edition integer PRIMARY KEY,
        format integer NOT NULL,
        spec text NOT NULL,                          -- the model, as JSON
        status text NOT NULL DEFAULT 'new',          -- new: never published; live; old: replaced by a newer one
        changed boolean NOT NULL DEFAULT true,       -- whether there is something to publish
        generation bigint NOT NULL DEFAULT 0,        -- how often it was published
        mark bigint NOT NULL DEFAULT 0,              -- the highest id that is published
        chunks bigint NOT NULL DEFAULT 0,            -- what is published: their number,
        files bigint NOT NULL DEFAULT 0,             -- that of the files that have some,
        words bigint NOT NULL DEFAULT 0,             -- and of the words in them
        about jsonb NOT NULL DEFAULT '{}',
        about_next jsonb NOT NULL DEFAULT '{}',
        has_words_index boolean NOT NULL DEFAULT false,
        has_vector_index boolean NOT NULL DEFAULT false,
        measured_rows bigint NOT NULL DEFAULT 0,     -- so many there were when the vector index was measured,
        ef_search integer,                           -- which found this to be enough; NULL: nothing is,
        recall real                                  -- and this recall at 10
    )
"""

CREATE_TABLES = (
    """
    CREATE TABLE files_{n} (
        id integer PRIMARY KEY,
        path text NOT NULL,
        removed boolean NOT NULL DEFAULT false,      -- kept while chunks of it are
        size_bytes bigint NOT NULL,
        mtime_ns bigint NOT NULL,
        inode numeric(20) NOT NULL,
        digest bytea NOT NULL,
        chunks integer NOT NULL,
        skipped text NOT NULL,
        failed integer NOT NULL,
        held integer NOT NULL DEFAULT 0              -- chunks that are in the tables and have not gone
    )
    """,
    "CREATE INDEX ON files_{n} USING hash (path)",
    """
    CREATE TABLE chunks_{n} (
        id bigint PRIMARY KEY,
        file integer NOT NULL,
        language text NOT NULL,
        kind text NOT NULL,
        digest bytea NOT NULL,
        vector vector({dim}) NOT NULL
    ) WITH (toast_tuple_target = 8160)  -- a vector in a place of its own is found more slowly
    """,
    "CREATE INDEX ON chunks_{n} (file)",
    "CREATE INDEX ON chunks_{n} USING hash (digest)",
    """
    CREATE TABLE words_{n} (
        id bigint PRIMARY KEY,
        file integer NOT NULL,
        language text NOT NULL,
        kind text NOT NULL,
        length integer NOT NULL,                     -- words in it, each as often as it is there
        words tsvector NOT NULL                      -- a word has as many positions as it is there
    )
    """,
    "CREATE INDEX ON words_{n} (file)",
    """
    CREATE TABLE texts_{n} (                         -- UTF-8 as bytes: a text may hold the character 0
        id bigint PRIMARY KEY,
        first_char integer NOT NULL,
        last_char integer NOT NULL,
        first_line integer NOT NULL,
        last_line integer NOT NULL,
        symbol bytea NOT NULL,
        context bytea NOT NULL,
        imports bytea NOT NULL,
        text bytea NOT NULL
    )
    """,
    "CREATE TABLE gone_{n} (id bigint PRIMARY KEY, died bigint NOT NULL)",
    """
    CREATE TABLE frequencies_{n} (                   -- in how many published chunks a word is
        word text COLLATE "C" PRIMARY KEY,
        chunks bigint NOT NULL
    )
    """,
    """
    CREATE TABLE counts_{n} (language text, kind text, chunks bigint NOT NULL, PRIMARY KEY (language, kind))
    """,
)
TABLES = ("files_{n}", "chunks_{n}", "words_{n}", "texts_{n}", "gone_{n}", "frequencies_{n}", "counts_{n}")
DROP_TABLES = "DROP TABLE IF EXISTS " + ", ".join(TABLES)

EDITIONS = "SELECT * FROM editions ORDER BY edition DESC"
EDITION = "SELECT * FROM editions WHERE edition = {n}"
ADD_EDITION = """
    INSERT INTO editions (edition, format, spec)
    SELECT coalesce(max(edition), 0) + 1, %(format)s, %(spec)s FROM editions RETURNING *
"""
FORGET_EDITION = "DELETE FROM editions WHERE edition = {n}"
RETIRE_OTHERS = "UPDATE editions SET status = 'old' WHERE edition <> {n}"
DESCRIBE = "UPDATE editions SET about_next = %(about)s::jsonb, changed = true WHERE edition = {n}"
CHANGED = "UPDATE editions SET changed = true WHERE edition = {n} AND NOT changed"

# The writer's statements.
HIGHEST_ID = (
    "SELECT greatest((SELECT mark FROM editions WHERE edition = {n}), (SELECT max(id) FROM chunks_{n}))"
)
FILES = (
    "SELECT id, path, removed, size_bytes, mtime_ns, inode, digest, chunks, skipped, failed FROM files_{n}"
)
SAVE_FILE = """
    INSERT INTO files_{n} (id, path, size_bytes, mtime_ns, inode, digest, chunks, skipped, failed)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (id) DO UPDATE SET removed = false, size_bytes = excluded.size_bytes, mtime_ns = excluded.mtime_ns,
        inode = excluded.inode, digest = excluded.digest, chunks = excluded.chunks, skipped = excluded.skipped,
        failed = excluded.failed
"""
REMOVE_FILES = "UPDATE files_{n} SET removed = true, held = 0 WHERE id = ANY(%(files)s)"
HELD = "UPDATE files_{n} SET held = %s WHERE id = %s AND held <> %s"
EMPTIED = """
    UPDATE files_{n} SET held = 0 WHERE id = ANY(%(files)s) AND chunks = 0 AND held > 0 RETURNING id
"""
OUTDATE = """
    INSERT INTO gone_{n} SELECT id, %(generation)s + 1 FROM chunks_{n} WHERE file = ANY(%(files)s) AND id <= %(mark)s
    ON CONFLICT DO NOTHING
"""
DROP_PENDING = (
    "DELETE FROM chunks_{n} WHERE file = ANY(%(files)s) AND id > %(mark)s RETURNING id",
    "DELETE FROM words_{n} WHERE id = ANY(%(ids)s)",
    "DELETE FROM texts_{n} WHERE id = ANY(%(ids)s)",
)
COPY_CHUNKS = "COPY chunks_{n} (id, file, language, kind, digest, vector) FROM STDIN (FORMAT binary)"
COPY_CHUNKS_TYPES = ("int8", "int4", "text", "text", "bytea", "vector")
COPY_WORDS = "COPY words_{n} (id, file, language, kind, length, words) FROM STDIN"
COPY_TEXTS = """
    COPY texts_{n} (id, first_char, last_char, first_line, last_line, symbol, context, imports, text)
    FROM STDIN (FORMAT binary)
"""
COPY_TEXTS_TYPES = ("int8", "int4", "int4", "int4", "int4", "bytea", "bytea", "bytea", "bytea")
KNOWN = (
    "SELECT DISTINCT ON (digest) digest, vector_send(vector) FROM chunks_{n} WHERE digest = ANY(%(digests)s)"
)

# Publishing, in this order. The text within ts_stat is a query that it runs itself.
FORGET_GONE = (
    "DELETE FROM chunks_{n} WHERE id IN (SELECT id FROM gone_{n} WHERE died <= %(generation)s)",
    "DELETE FROM words_{n} WHERE id IN (SELECT id FROM gone_{n} WHERE died <= %(generation)s)",
    "DELETE FROM texts_{n} WHERE id IN (SELECT id FROM gone_{n} WHERE died <= %(generation)s)",
    "DELETE FROM gone_{n} WHERE died <= %(generation)s",
)
FORGET_FILES = """
    DELETE FROM files_{n} f WHERE removed AND NOT EXISTS (SELECT 1 FROM chunks_{n} WHERE file = f.id) RETURNING path
"""
COUNT_KINDS = """
    INSERT INTO counts_{n} AS old
    SELECT language, kind, sum(change) FROM (
        SELECT language, kind, 1 AS change FROM words_{n} WHERE id > %(mark)s
        UNION ALL SELECT language, kind, -1 FROM words_{n} JOIN gone_{n} USING (id) WHERE died > %(generation)s) c
    GROUP BY language, kind
    ON CONFLICT (language, kind) DO UPDATE SET chunks = old.chunks + excluded.chunks
"""
COUNT_WORDS = """
    INSERT INTO frequencies_{n} AS old
    SELECT word, sum(change) FROM (
        SELECT word, ndoc AS change FROM ts_stat('SELECT words FROM words_{n} WHERE id > {mark}')
        UNION ALL SELECT word, -ndoc FROM ts_stat(
            'SELECT words FROM words_{n} JOIN gone_{n} USING (id) WHERE died > {generation}')) c
    GROUP BY word HAVING sum(change) <> 0
    ON CONFLICT (word) DO UPDATE SET chunks = old.chunks + excluded.chunks
"""
PUBLISH = """
    UPDATE editions SET status = 'live', changed = false, generation = generation + 1, about = about_next,
        mark = greatest(mark, (SELECT max(id) FROM words_{n})),
        chunks = (SELECT coalesce(sum(chunks), 0) FROM counts_{n}),
        files = (SELECT count(*) FROM files_{n} WHERE held > 0),
        words = words + (SELECT coalesce(sum(length), 0) FROM words_{n} WHERE id > mark)
            - (SELECT coalesce(sum(length), 0) FROM words_{n} JOIN gone_{n} USING (id) WHERE died > generation)
    WHERE edition = {n} RETURNING *
"""
PENDING = "SELECT count(*) FROM words_{n} WHERE id > %(mark)s"

ANALYZE = "ANALYZE " + ", ".join(TABLES)

# Indexes for searching, made when there is something to index.
INDEX_WORDS = "CREATE INDEX words_index_{n} ON words_{n} USING gin (words) WITH (fastupdate = off)"
DROP_VECTOR_INDEX = "DROP INDEX IF EXISTS vector_index_{n}"
HAS_WORDS_INDEX = "UPDATE editions SET has_words_index = true WHERE edition = {n}"
INDEX_VECTORS = """
    CREATE INDEX vector_index_{n} ON chunks_{n} USING hnsw ({indexed} {kind}_cosine_ops)
    WITH (m = 16, ef_construction = 100)
"""
MEASURED = """
    UPDATE editions SET has_vector_index = true, measured_rows = %(rows)s, ef_search = %(ef_search)s,
        recall = %(recall)s
    WHERE edition = {n}
"""
BUILD_SETTINGS = """
    SELECT set_config('maintenance_work_mem', %(memory)s, true),
        set_config('max_parallel_maintenance_workers', %(workers)s, true)
"""
SAMPLE = """
    SELECT vector_send(vector) FROM chunks_{n} WHERE id IN (
        SELECT (SELECT min(id) FROM chunks_{n} WHERE id >= step)
        FROM generate_series((SELECT min(id) FROM chunks_{n}), (SELECT max(id) FROM chunks_{n}),
            greatest(1, (SELECT (max(id) - min(id)) / %(rows)s FROM chunks_{n}))) step)
    ORDER BY id LIMIT %(rows)s
"""

# The readers' statements. {seen} and {where} narrow rows down to what may be found.
BY_INDEX = """
    SELECT set_config('enable_seqscan', 'off', true), set_config('enable_sort', 'off', true),
        set_config('enable_bitmapscan', 'off', true), set_config('enable_indexscan', 'on', true),
        set_config('hnsw.ef_search', %(ef_search)s, true), set_config('hnsw.iterative_scan', 'strict_order', true),
        set_config('hnsw.max_scan_tuples', %(scanned)s, true)
"""
BY_SCAN = """
    SELECT set_config('enable_indexscan', 'off', true), set_config('enable_seqscan', 'on', true),
        set_config('enable_sort', 'on', true), set_config('enable_bitmapscan', 'on', true)
"""
PLAIN = """
    SELECT set_config('enable_indexscan', 'on', true), set_config('enable_seqscan', 'on', true),
        set_config('enable_sort', 'on', true), set_config('enable_bitmapscan', 'on', true)
"""
SEEN = "id <= %(mark)s AND id NOT IN (SELECT id FROM gone_{n} WHERE died <= %(generation)s)"
NEAREST = """
    SELECT id, file, language, kind, vector <=> %(vector)s AS distance FROM (
        SELECT * FROM chunks_{n} WHERE {seen} {where} ORDER BY {indexed} <=> {query} LIMIT %(candidates)s) near
    ORDER BY 5, id LIMIT %(k)s
"""
# A vector of length 0 has no direction: its distance is NaN, and counts as that of unrelated ones.
NEAREST_EXACT = """
    SELECT id, file, language, kind, CASE distance WHEN 'NaN' THEN 1 ELSE distance END AS distance FROM (
        SELECT id, file, language, kind, vector <=> %(vector)s AS distance FROM chunks_{n} WHERE {seen} {where}) near
    ORDER BY 5, id LIMIT %(k)s
"""
MATCHING = """
    SELECT id, file, language, kind, {score} AS score FROM words_{n}
    WHERE words @@ %(query)s::tsquery AND {seen} {where} ORDER BY 5 DESC, id LIMIT %(k)s
"""
SHOWN = """
    SELECT t.id, path, first_char, last_char, first_line, last_line, symbol, context, imports, text
    FROM texts_{n} t JOIN unnest(%(ids)s::bigint[], %(files)s::integer[]) found (chunk, file) ON found.chunk = t.id
    JOIN files_{n} f ON f.id = found.file
"""
AT = """
    SELECT c.id, c.file, language, kind, vector_send(vector) FROM files_{n} f JOIN chunks_{n} c ON c.file = f.id
    JOIN texts_{n} t ON t.id = c.id
    WHERE path = %(path)s AND first_line <= %(line)s AND last_line >= %(line)s AND c.id <= %(mark)s
        AND c.id NOT IN (SELECT id FROM gone_{n} WHERE died <= %(generation)s)
    ORDER BY last_char - first_char, first_char LIMIT 1
"""
SCAN_IDS = "SELECT id FROM chunks_{n} WHERE {seen} ORDER BY id"
SCAN = """
    SELECT id, file, language, kind, vector_send(vector) FROM chunks_{n} WHERE id = ANY(%(ids)s) ORDER BY id
"""
PATHS = "SELECT id, path, held FROM files_{n}"
COUNTS = "SELECT language, kind, chunks FROM counts_{n} WHERE chunks > 0"
FREQUENCIES = "SELECT word, chunks FROM frequencies_{n} WHERE word = ANY(%(words)s) AND chunks > 0"
BYTES = "SELECT " + " + ".join(f"pg_total_relation_size('{table}')" for table in TABLES)


def named(statement: str, edition: int, **parts: str | int) -> str:
    """A statement for the tables of an edition. Parts are SQL or numbers of our own, never what a user wrote."""
    for name, value in parts.items():
        statement = statement.replace(f"{{{name}}}", str(value))
    return statement.replace("{n}", str(edition))
