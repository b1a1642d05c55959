//! Whole ranges, page by page.

use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};

use super::{Key, KeyValue, Kv, Listing, Page, Range, Revision};
use crate::Error;

/// Keys per page: a page of the longest records stays below 20 MiB, of typical ones below 2. etcd before 3.6 looks for each page
/// through all keys up to the range's end, so that small pages of a large range cost it seconds.
pub const LIST_PAGE: usize = 4_000;

/// Parts of a range that are asked for at a time: while one is on its way, the next is looked for.
const AT_ONCE: usize = 2;

/// A whole range at one revision.
///
/// # Errors
/// As [`Kv::list`]; [`Error::Compacted`] where compaction overtook the paging.
pub async fn list_all(kv: &dyn Kv, range: &Range) -> Result<Listing, Error> {
    let mut pages = pages(kv, range);
    let mut all =
        pages.try_next().await?.unwrap_or(Listing { items: Vec::new(), revision: Revision(0), more: false });
    while let Some(page) = pages.try_next().await? {
        all.items.extend(page.items);
    }
    all.more = false;
    Ok(all)
}

/// The pages of a whole range, in the order of keys and all at one revision; at least one, which may be empty. Where the rest
/// after the first page has shards, it is read in parts of about a page each, some at a time.
///
/// # Errors
/// As [`list_all`]; the pages end with their first error.
pub(crate) fn pages<'a>(kv: &'a dyn Kv, range: &'a Range) -> BoxStream<'a, Result<Listing, Error>> {
    let pages = async move {
        let first = kv.list(range, Page { limit: LIST_PAGE, ..Page::default() }).await?;
        let at = first.revision;
        let rest = match first.items.last() {
            Some(last) if first.more => parts(range, &last.key),
            Some(_) | None => Vec::new(),
        };
        let rest = stream::iter(rest).map(move |part| read(kv, part, at)).buffered(AT_ONCE);
        Ok::<_, Error>(stream::once(async { Ok(first) }).chain(rest))
    };
    stream::once(pages).try_flatten().boxed()
}

/// What is after a key in a range.
struct Part {
    range: Range,
    after: Option<Key>,
}

async fn read(kv: &dyn Kv, part: Part, at: Revision) -> Result<Listing, Error> {
    let Part { range, mut after } = part;
    let mut items: Vec<KeyValue> = Vec::new();
    loop {
        let page = kv.list(&range, Page { limit: LIST_PAGE, after, at: Some(at) }).await?;
        items.extend(page.items);
        after = items.last().map(|kv| kv.key.clone());
        if !page.more {
            return Ok(Listing { items, revision: at, more: false });
        }
    }
}

/// What is after `last` in a range whose first page it ended, in parts that join each other. Keys of a kind that has shards begin
/// with two hexadecimal digits, evenly used; so the first page tells how many shards make a page. Keys that are otherwise are in
/// some part as well.
fn parts(range: &Range, last: &Key) -> Vec<Part> {
    let whole = || vec![Part { range: range.clone(), after: Some(last.clone()) }];
    let Range::Prefix(prefix) = range else { return whole() };
    let (prefix, (_, Some(end))) = (prefix.as_str(), range.bounds()) else { return whole() };
    let Some(reached) = shard(prefix, last) else { return whole() };
    // Somewhat less than the page had, so that a part seldom has two.
    let step = (usize::from(reached) * 7 / 8).max(1);
    let bounds = (usize::from(reached) + 1..256).step_by(step).map(|shard| format!("{prefix}{shard:02x}"));
    let bounds: Vec<String> =
        std::iter::once(format!("{prefix}{reached:02x}")).chain(bounds).chain([end]).collect();
    let part = |from: &String, to: &String| Range::span(from.as_str(), to.as_str()).ok();
    let ranges: Option<Vec<Range>> = bounds.windows(2).map(|pair| part(&pair[0], &pair[1])).collect();
    let Some(ranges) = ranges else { return whole() };
    let after = std::iter::once(Some(last.clone())).chain(std::iter::repeat(None));
    ranges.into_iter().zip(after).map(|(range, after)| Part { range, after }).collect()
}

/// The shard of a key after a prefix.
fn shard(prefix: &str, key: &Key) -> Option<u8> {
    let digits = key.as_str().strip_prefix(prefix)?.split('/').next()?;
    let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (digits.len() == 2 && digits.bytes().all(lower)).then(|| u8::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        embedded::{Embedded, EmbeddedOptions},
        kv::{Op, Txn},
    };

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    #[test]
    fn the_parts_after_a_page_join_and_leave_nothing_out() {
        let prefix = Range::prefix("case/").unwrap();
        let keys = [
            "case/!",
            "case/00/t/1",
            "case/0f/t/1",
            "case/10/t/1",
            "case/10/t/2",
            "case/7f/t/1",
            "case/9z",
            "case/a0/t/1",
            "case/ff/t/1",
            "case/ff~",
            "case/g",
            "case/~",
        ];
        for (n, last) in keys.iter().enumerate() {
            let parts = parts(&prefix, &key(last));
            let within = |text: &str| {
                let key = key(text);
                let holds = |part: &&Part| {
                    part.range.contains(&key) && part.after.as_ref().is_none_or(|after| key > *after)
                };
                parts.iter().filter(holds).count()
            };
            for (m, text) in keys.iter().enumerate() {
                assert_eq!(within(text), usize::from(m > n), "{text} after {last}");
            }
            for outside in ["case0", "casd", "case", "cast/00"] {
                assert_eq!(within(outside), 0, "{outside} after {last}");
            }
            assert!(
                parts.windows(2).all(|pair| pair[0].range.bounds().1.unwrap() == pair[1].range.bounds().0)
            );
        }
    }

    #[tokio::test]
    async fn pages_show_one_revision_whatever_changes_between_them() {
        let folder = tempfile::tempdir().unwrap();
        let store = Embedded::open(EmbeddedOptions::new(folder.path())).await.unwrap();
        let put =
            |n: usize, value: &str| Op::put(&key(&format!("wide/{:02x}/k{n:05}", n % 256)), value.to_owned());
        let all: Vec<Op> = (0..2 * LIST_PAGE + 1_000).map(|n| put(n, "old")).collect();
        for ops in all.chunks(crate::kv::MAX_TXN_OPS) {
            store.txn(Txn { then: ops.to_vec(), ..Txn::default() }).await.unwrap();
        }
        let range = Range::prefix("wide/").unwrap();
        let mut pages = pages(&store, &range);
        let mut listed = vec![pages.try_next().await.unwrap().unwrap()];
        // All of the second page's shards, and one key that is new.
        let changed: Vec<Op> =
            (0..100).map(|n| put(n * 7 + 119, "new")).chain([put(99_999, "new")]).collect();
        store.txn(Txn { then: changed, ..Txn::default() }).await.unwrap();
        listed.extend(pages.try_collect::<Vec<_>>().await.unwrap());
        let sizes: Vec<usize> = listed.iter().map(|page| page.items.len()).collect();
        assert_eq!((sizes[0], sizes.iter().sum::<usize>()), (LIST_PAGE, all.len()), "{sizes:?}");
        assert!(sizes.len() > 2 && sizes.iter().all(|size| *size <= LIST_PAGE), "{sizes:?}");
        assert!(listed.iter().all(|page| page.revision == listed[0].revision));
        let items: Vec<_> = listed.into_iter().flat_map(|page| page.items).collect();
        assert!(items.iter().all(|kv| kv.value == "old") && items.is_sorted_by(|a, b| a.key < b.key));
    }

    #[test]
    fn a_part_is_about_a_page_of_what_has_shards() {
        let count = |range: &str, last: &str| parts(&Range::prefix(range).unwrap(), &key(last)).len();
        assert_eq!(count("case/", "case/14/t/1"), 15, "a page had 21 of 256 shards");
        assert_eq!(count("case/", "case/00/t/1"), 256, "less than a shard makes a page");
        assert_eq!(count("case/", "case/ff/t/1"), 1);
        for (range, last) in
            [("registry/", "registry/net/site/1"), ("", "case/00/t/1"), ("case/0", "case/00/t/1")]
        {
            assert_eq!(count(range, last), 1, "{range} after {last}");
        }
    }
}
