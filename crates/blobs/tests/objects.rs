//! What callers rely on, on a real folder.

use std::{fs, io::Write as _, path::PathBuf};

use bytes::Bytes;
use futures::TryStreamExt as _;
use isocenter_blobs::{BlobPath, Blobs, CHUNK, Error, Put, path};
use isocenter_domain::{
    Kind, Kinded as _, Time,
    id::{InstanceUid, StudyUid, TenantId},
    refs::Digest,
};

struct Place {
    dir: tempfile::TempDir,
    blobs: Blobs,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path().join("blobs").to_str().unwrap()).unwrap();
    Place { dir, blobs }
}

fn tenant() -> TenantId {
    TenantId::new("t").unwrap()
}

fn study(text: &str) -> StudyUid {
    StudyUid::new(text).unwrap()
}

fn spooled(place: &Place, content: &[u8]) -> (PathBuf, BlobPath) {
    let file = place.dir.path().join(Digest::of(content).to_string());
    fs::File::create(&file).unwrap().write_all(content).unwrap();
    let sop = InstanceUid::new("1.2.3").unwrap();
    (file, path::instance(&tenant(), &study("1.2"), &sop, &Digest::of(content)))
}

#[tokio::test]
async fn an_object_is_created_once_and_never_overwritten() {
    let place = place();
    let name = path::manifest(&tenant(), &study("1.2"), 1);
    assert!(!place.blobs.exists(&name).await.unwrap());
    assert_eq!(place.blobs.put_new(&name, Bytes::from_static(b"one")).await.unwrap(), Put::Created);
    assert_eq!(place.blobs.put_new(&name, Bytes::from_static(b"one")).await.unwrap(), Put::Existed);
    for other in [&b"two"[..], b"longer"] {
        let refused = place.blobs.put_new(&name, Bytes::from_static(other)).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::AlreadyExists);
    }
    assert_eq!(place.blobs.get(&name).await.unwrap(), "one");
    let digest = Digest::of(b"one");
    assert_eq!(place.blobs.get_checked(&name, &digest).await.unwrap(), "one");
    let corrupt = place.blobs.get_checked(&name, &Digest::of(b"two")).await.unwrap_err();
    assert_eq!(corrupt.kind(), Kind::DataLoss);
}

#[tokio::test]
async fn of_many_writers_of_one_name_one_creates_and_those_who_agree_succeed() {
    let place = place();
    let name = path::manifest(&tenant(), &study("1.2"), 1);
    let puts = (0..32_u8).map(|i| place.blobs.put_new(&name, Bytes::from(vec![i % 2; 1000])));
    let results = futures::future::join_all(puts).await;
    let count = |wanted: fn(&Result<Put, Error>) -> bool| results.iter().filter(|r| wanted(r)).count();
    assert_eq!(count(|r| matches!(r, Ok(Put::Created))), 1);
    assert_eq!(count(|r| matches!(r, Ok(Put::Existed))), 15);
    assert_eq!(count(|r| matches!(r, Err(Error::AlreadyExists(_)))), 16);
}

#[tokio::test]
async fn a_spooled_file_is_adopted_without_a_second_copy_and_twice_is_once() {
    use std::os::unix::fs::MetadataExt as _;
    let place = place();
    let (file, name) = spooled(&place, b"pixels");
    assert_eq!(place.blobs.adopt(&file, &name).await.unwrap(), Put::Created);
    assert_eq!(fs::metadata(&file).unwrap().nlink(), 2);
    assert_eq!(place.blobs.adopt(&file, &name).await.unwrap(), Put::Existed);
    fs::remove_file(&file).unwrap();
    assert_eq!(place.blobs.get(&name).await.unwrap(), "pixels");

    let (again, _) = spooled(&place, b"pixels");
    assert_eq!(place.blobs.adopt(&again, &name).await.unwrap(), Put::Existed);
    let (other, _) = spooled(&place, b"others");
    assert!(matches!(place.blobs.adopt(&other, &name).await, Err(Error::AlreadyExists(_))));
    assert_eq!(place.blobs.get(&name).await.unwrap(), "pixels");
    let missing = place.dir.path().join("missing");
    assert!(matches!(place.blobs.adopt(&missing, &name).await, Err(Error::Io { .. })));
}

#[tokio::test]
async fn pixels_are_read_in_pieces_and_ranges_are_cut_at_the_end() {
    let place = place();
    let len = usize::try_from(CHUNK).unwrap() * 2 + 5;
    let content: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let (file, name) = spooled(&place, &content);
    place.blobs.adopt(&file, &name).await.unwrap();
    let pieces: Vec<Bytes> = place.blobs.stream(&name).try_collect().await.unwrap();
    assert_eq!(pieces.iter().map(|p| p.len() as u64).collect::<Vec<_>>(), [CHUNK, CHUNK, 5]);
    assert_eq!(pieces.concat(), content);
    assert_eq!(place.blobs.size(&name).await.unwrap(), len as u64);
    assert_eq!(place.blobs.get_range(&name, 10..20).await.unwrap(), content[10..20]);
    assert_eq!(place.blobs.get_range(&name, len as u64 - 2..u64::MAX).await.unwrap(), content[len - 2..]);
    assert!(place.blobs.get_range(&name, u64::MAX - 1..u64::MAX).await.unwrap().is_empty());
    let absent = path::policy(&tenant(), &Digest::of(b""));
    assert!(place.blobs.stream(&absent).try_collect::<Vec<_>>().await.is_err());
    assert_eq!(place.blobs.get(&absent).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn listings_are_in_order_and_pass_over_unfinished_files() {
    let place = place();
    let mut made = Vec::new();
    // Names whose order as paths and as folders differ: '-' and '.' sort before '/'.
    for uid in ["1.2", "1", "1.10", "10"] {
        for revision in [2, 11, 1] {
            let name = path::manifest(&tenant(), &study(uid), revision);
            place.blobs.put_new(&name, Bytes::from_static(b"m")).await.unwrap();
            made.push(name);
        }
    }
    made.sort();
    let unfinished = place.dir.path().join("blobs").join(format!("{}#17", made[0].as_str()));
    fs::write(unfinished, b"half").unwrap();
    let all = path::all_of("manifest", &tenant()).unwrap();
    let listed: Vec<BlobPath> = place.blobs.list(&all).map_ok(|e| e.path).try_collect().await.unwrap();
    assert_eq!(listed, made);
    for (n, after) in made.iter().enumerate() {
        let rest = place.blobs.list_after(&all, after).map_ok(|e| e.path);
        assert_eq!(rest.try_collect::<Vec<_>>().await.unwrap(), made[n + 1..], "after {after}");
    }
    let gone = path::manifest(&tenant(), &study("1.2"), 3);
    let rest: Vec<_> = place.blobs.list_after(&all, &gone).map_ok(|e| e.path).try_collect().await.unwrap();
    assert_eq!(rest, made.iter().filter(|name| **name > gone).cloned().collect::<Vec<_>>());
    let newest = place.blobs.last(&path::manifests_of(&tenant(), &study("1.2"))).await.unwrap().unwrap();
    assert_eq!(newest.path, path::manifest(&tenant(), &study("1.2"), 11));
    assert_eq!(place.blobs.last(&path::journal_of(3)).await.unwrap(), None);
}

#[tokio::test]
async fn deleting_twice_deletes_once() {
    let place = place();
    let name = path::journal(7, Time(1), 2);
    place.blobs.put_new(&name, Bytes::from_static(b"events")).await.unwrap();
    assert!(place.blobs.delete(&name).await.unwrap());
    assert!(!place.blobs.delete(&name).await.unwrap());
    assert!(!place.blobs.exists(&name).await.unwrap());
}

#[test]
fn a_place_that_cannot_hold_objects_is_refused_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, b"").unwrap();
    for location in ["", "s3://bucket", file.to_str().unwrap()] {
        assert!(Blobs::open(location).is_err(), "{location}");
    }
    let url = format!("file://{}", dir.path().join("a/b").display());
    Blobs::open(&url).unwrap();
    assert_eq!(fs::read_dir(dir.path().join("a/b")).unwrap().count(), 0);
}

/// `/dev/full` refuses every write as a full disk does, but no folder does so without privileges: the naming of the
/// error is judged on the operating system's own code.
#[test]
fn a_full_disk_is_a_bound_reached() {
    let full = std::io::Error::from_raw_os_error(28);
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let error = Error::Full { folder: "/blobs".into(), source: full };
    assert_eq!((error.kind(), error.to_string()), (Kind::Exhausted, "the disk under /blobs is full".into()));
}

/// Two file systems: `/dev/shm` and the temporary folder. Where they are one, adoption links, which the content
/// cannot tell apart.
#[tokio::test]
async fn a_file_of_another_file_system_is_copied() {
    let place = place();
    let shm = PathBuf::from("/dev/shm");
    let elsewhere = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
    let file = elsewhere.path().join("spooled");
    fs::write(&file, b"pixels").unwrap();
    let (_, name) = spooled(&place, b"pixels");
    assert_eq!(place.blobs.adopt(&file, &name).await.unwrap(), Put::Created);
    assert_eq!(place.blobs.adopt(&file, &name).await.unwrap(), Put::Existed);
    fs::remove_file(&file).unwrap();
    assert_eq!(place.blobs.get(&name).await.unwrap(), "pixels");
    let listed: Vec<_> = place.blobs.list(&path::all("instance").unwrap()).try_collect().await.unwrap();
    assert_eq!(listed.len(), 1);
    let folder = place.dir.path().join("blobs").join(name.as_str());
    assert_eq!(fs::read_dir(folder.parent().unwrap()).unwrap().count(), 1, "no staging file is left");
}
