-- Projections of the journal. Everything here can be made again from the journal and the manifests in blobs.
-- One text for SQLite and PostgreSQL: flags are BIGINT 0 or 1, times BIGINT microseconds since 1970 (0: never), digests
-- hexadecimal text.

-- Every event ever journaled. Two lines of one record and seq are a fork of its history, both are kept.
CREATE TABLE events (
    tenant     TEXT   NOT NULL,
    record_key TEXT   NOT NULL,
    seq        BIGINT NOT NULL,
    op_id      TEXT   NOT NULL,
    kind       TEXT   NOT NULL,
    study      TEXT   NOT NULL,
    case_id    TEXT   NOT NULL,
    event      TEXT   NOT NULL,
    actor      TEXT   NOT NULL,
    reason     TEXT   NOT NULL,
    at         BIGINT NOT NULL,
    -- When, but never before the record's earlier events: clocks of two machines may differ.
    ord        BIGINT NOT NULL,
    trace      TEXT   NOT NULL,
    PRIMARY KEY (record_key, seq, op_id)
);
CREATE INDEX events_of_study ON events (tenant, study, ord);
CREATE INDEX events_of_case ON events (tenant, case_id, ord);

-- How far each record is projected.
CREATE TABLE applied (
    record_key TEXT   NOT NULL PRIMARY KEY,
    tenant     TEXT   NOT NULL,
    kind       TEXT   NOT NULL,
    seq        BIGINT NOT NULL,
    gone       BIGINT NOT NULL,
    digest     TEXT   NOT NULL
);
CREATE INDEX applied_of_tenant ON applied (tenant, kind);

CREATE TABLE studies (
    tenant            TEXT   NOT NULL,
    study             TEXT   NOT NULL,
    site              TEXT   NOT NULL,
    state             TEXT   NOT NULL,
    closed            BIGINT NOT NULL,
    revision          BIGINT NOT NULL,
    complete_at       BIGINT NOT NULL,
    modalities        TEXT   NOT NULL,
    body_part         TEXT   NOT NULL,
    images            BIGINT NOT NULL,
    instances         BIGINT NOT NULL,
    series            BIGINT NOT NULL,
    bytes             BIGINT NOT NULL,
    -- From the manifest of this revision; 0: none is indexed yet.
    manifest_revision BIGINT NOT NULL,
    study_date        TEXT   NOT NULL,
    patient_authority TEXT   NOT NULL,
    patient_id        TEXT   NOT NULL,
    accession         TEXT   NOT NULL,
    PRIMARY KEY (tenant, study)
);
CREATE INDEX studies_by_age ON studies (tenant, complete_at, study);
CREATE INDEX studies_of_patient ON studies (tenant, patient_authority, patient_id);
CREATE INDEX studies_of_accession ON studies (tenant, accession);

CREATE TABLE study_modalities (
    tenant   TEXT NOT NULL,
    study    TEXT NOT NULL,
    modality TEXT NOT NULL,
    PRIMARY KEY (tenant, study, modality)
);

CREATE TABLE images (
    tenant          TEXT   NOT NULL,
    study           TEXT   NOT NULL,
    series          TEXT   NOT NULL,
    instance        TEXT   NOT NULL,
    sop_class       TEXT   NOT NULL,
    transfer_syntax TEXT   NOT NULL,
    size            BIGINT NOT NULL,
    sha256          TEXT   NOT NULL,
    frames          BIGINT NOT NULL,
    PRIMARY KEY (tenant, study, instance),
    FOREIGN KEY (tenant, study) REFERENCES studies (tenant, study)
);

CREATE TABLE plans (
    tenant   TEXT   NOT NULL,
    study    TEXT   NOT NULL,
    revision BIGINT NOT NULL,
    policy   TEXT   NOT NULL,
    -- Empty where nobody reads it.
    case_id  TEXT   NOT NULL,
    PRIMARY KEY (tenant, study)
);

CREATE TABLE cases (
    tenant      TEXT   NOT NULL,
    case_id     TEXT   NOT NULL,
    site        TEXT   NOT NULL,
    class       TEXT   NOT NULL,
    closed      BIGINT NOT NULL,
    complete_at BIGINT NOT NULL,
    due_at      BIGINT NOT NULL,
    PRIMARY KEY (tenant, case_id)
);

CREATE TABLE case_members (
    tenant  TEXT NOT NULL,
    case_id TEXT NOT NULL,
    study   TEXT NOT NULL,
    PRIMARY KEY (tenant, case_id, study)
);
-- With the case in it, or SQLite prefers the primary key, which holds all three columns too, and reads all of a tenant.
CREATE INDEX cases_of_study ON case_members (tenant, study, case_id);

CREATE TABLE ai_tasks (
    tenant          TEXT   NOT NULL,
    study           TEXT   NOT NULL,
    service         TEXT   NOT NULL,
    revision        BIGINT NOT NULL,
    state           TEXT   NOT NULL,
    attempts        BIGINT NOT NULL,
    requested_at    BIGINT NOT NULL,
    answered_at     BIGINT NOT NULL,
    probability_ppm BIGINT NOT NULL,
    model           TEXT   NOT NULL,
    model_version   TEXT   NOT NULL,
    PRIMARY KEY (tenant, study, service, revision)
);

CREATE TABLE reads (
    tenant        TEXT   NOT NULL,
    case_id       TEXT   NOT NULL,
    n             BIGINT NOT NULL,
    kind          TEXT   NOT NULL,
    state         TEXT   NOT NULL,
    reader        TEXT   NOT NULL,
    waiting_since BIGINT NOT NULL,
    signed_at     BIGINT NOT NULL,
    PRIMARY KEY (tenant, case_id, n)
);

CREATE TABLE reports (
    tenant    TEXT   NOT NULL,
    case_id   TEXT   NOT NULL,
    n         BIGINT NOT NULL,
    version   BIGINT NOT NULL,
    kind      TEXT   NOT NULL,
    body      TEXT   NOT NULL,
    author    TEXT   NOT NULL,
    signed_at BIGINT NOT NULL,
    about     BIGINT NOT NULL,
    PRIMARY KEY (tenant, case_id, n, version)
);

CREATE TABLE report_studies (
    tenant   TEXT   NOT NULL,
    case_id  TEXT   NOT NULL,
    n        BIGINT NOT NULL,
    version  BIGINT NOT NULL,
    study    TEXT   NOT NULL,
    revision BIGINT NOT NULL,
    PRIMARY KEY (tenant, case_id, n, version, study)
);
CREATE INDEX reports_of_study ON report_studies (tenant, study);

CREATE TABLE deliveries (
    tenant      TEXT   NOT NULL,
    case_id     TEXT   NOT NULL,
    n           BIGINT NOT NULL,
    version     BIGINT NOT NULL,
    destination TEXT   NOT NULL,
    state       TEXT   NOT NULL,
    attempts    BIGINT NOT NULL,
    message_id  TEXT   NOT NULL,
    accepted_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, case_id, n, version, destination)
);

-- Whoever applies a journal object first takes the row of its shard, so that two never apply to one record at a time. The
-- number only makes the row change.
CREATE TABLE shards (
    shard BIGINT NOT NULL PRIMARY KEY,
    turn  BIGINT NOT NULL
);
WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < 255)
INSERT INTO shards (shard, turn) SELECT n, 0 FROM numbers;

-- While the tables are made again from the journal beside these: one row, and the objects applied here since.
CREATE TABLE rebuilding (
    id    BIGINT NOT NULL PRIMARY KEY,
    since BIGINT NOT NULL
);
CREATE TABLE rebuild_tail (
    object TEXT NOT NULL PRIMARY KEY
);

-- Closed studies whose images were all found in blobs when they were last looked for. No projection: kept over a rebuild.
CREATE TABLE verified (
    tenant   TEXT   NOT NULL,
    study    TEXT   NOT NULL,
    revision BIGINT NOT NULL,
    at       BIGINT NOT NULL,
    PRIMARY KEY (tenant, study)
);
