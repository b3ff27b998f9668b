//! Big files, in parts.
//!
//! All parts but the last are equally big, which R2 asks for. What a killed or cut upload has left
//! is found under its key and gone on with: a key names the digest of its bytes, so parts of the
//! right size are parts of the same file; who publishes reads all of it back in any case. An upload
//! that fails for good, or that the user ends, is aborted; a network that is gone leaves it for the
//! next try. [`Bucket::abort_old`] removes what nobody came back for.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use imgrun::Stage;
use imgrun::depot::Depot as _;
use imgrun::tuf::time;

use super::{Bucket, Failure, IMMUTABLE, Put, TRIES_MAX, content_type, pause};
use crate::{Class, Error, Result, patience};

/// A part, and the largest file that goes up in one request.
const PART_BYTES: u64 = 16 << 20;
/// Parts of one upload, S3's limit.
const PARTS_MAX: u64 = 10_000;

/// The size of each part of a file of `size` bytes.
fn part_bytes(size: u64) -> u64 {
    PART_BYTES.max(size.div_ceil(PARTS_MAX).next_multiple_of(1 << 20))
}

impl Bucket {
    pub(super) fn put_file(&self, key: &str, path: &Path, size: u64, stage: &Stage) -> Result<Put> {
        // Asked first: most of the time nothing has to be sent at all.
        if self.size(key)?.is_some() {
            return Ok(Put::Exists);
        }
        let about = |e| Error::io(path.display(), e);
        let file = File::open(path).map_err(about)?;
        if file.metadata().map_err(about)?.len() != size {
            return Err(Error::input(format!("{}: it changes while it is read", path.display())));
        }
        if size <= PART_BYTES {
            let mut bytes = vec![0; size as usize];
            file.read_exact_at(&mut bytes, 0).map_err(about)?;
            let put = self.run(self.put(key, bytes, true))?;
            stage.add(size);
            return Ok(put);
        }
        let upload = Upload { bucket: self, key, size, file: &file, path, stage };
        let id = self.run(upload.find_or_create())?;
        let result = self.run(upload.send(&id));
        if result.as_ref().is_err_and(|e| e.class() != Class::Network) {
            // The user may be in a hurry, and it is swept some day in any case.
            let _ = self.runtime.block_on(upload.abort(&id));
        }
        result
    }

    /// Aborts uploads that were begun more than `seconds` ago; returns how many.
    pub(super) fn abort_old(&self, seconds: u64) -> Result<usize> {
        let request =
            self.client.list_multipart_uploads().bucket(&self.bucket).prefix(&self.prefix);
        patience::run(&self.runtime, async {
            let listed = request.send().await;
            let listed = listed.map_err(|e| Failure::of(e).error(&self.title))?;
            let mut aborted = 0;
            for upload in listed.uploads() {
                let begun = upload.initiated().map_or(i64::MAX, |t| t.secs());
                let old =
                    u64::try_from(begun).is_ok_and(|b| b.saturating_add(seconds) <= time::now());
                let (Some(key), Some(id)) = (upload.key(), upload.upload_id()) else { continue };
                if old {
                    let abort = self.client.abort_multipart_upload().bucket(&self.bucket);
                    let done = abort.key(key).upload_id(id).send().await;
                    aborted += usize::from(done.is_ok());
                }
            }
            Ok(aborted)
        })
    }
}

/// One file on its way up.
struct Upload<'a> {
    bucket: &'a Bucket,
    key: &'a str,
    size: u64,
    file: &'a File,
    path: &'a Path,
    stage: &'a Stage,
}

impl Upload<'_> {
    /// An upload that was cut, or a new one.
    async fn find_or_create(&self) -> Result<String> {
        let Bucket { client, bucket, .. } = self.bucket;
        let key = self.bucket.key(self.key)?;
        // Not every server can list them; then each upload begins anew.
        let listed = client.list_multipart_uploads().bucket(bucket).prefix(&key).send().await;
        if let Ok(listed) = listed {
            let mut ours: Vec<_> =
                listed.uploads().iter().filter(|u| u.key() == Some(&key)).collect();
            ours.sort_by_key(|upload| upload.initiated().map(|t| t.secs()));
            if let Some(id) = ours.last().and_then(|upload| upload.upload_id()) {
                return Ok(id.to_string());
            }
        }
        let create = client
            .create_multipart_upload()
            .bucket(bucket)
            .key(key)
            .cache_control(IMMUTABLE)
            .content_type(content_type(self.key));
        let created = create.send().await.map_err(|e| self.failed(e))?;
        let id = created.upload_id().map(str::to_string);
        id.ok_or_else(|| Error::network(format!("{}: no upload was begun", self.what())))
    }

    async fn send(&self, id: &str) -> Result<Put> {
        let part = part_bytes(self.size);
        let mut there = self.parts(id, part).await?;
        let count = self.size.div_ceil(part);
        for number in 1..=count {
            let n = i32::try_from(number).map_err(|_| Error::bug("too many parts"))?;
            let from = (number - 1) * part;
            let bytes = part.min(self.size - from);
            if let Entry::Vacant(missing) = there.entry(n) {
                missing.insert(self.part(id, n, from, bytes).await?);
            }
            self.stage.add(bytes);
        }
        self.complete(id, there).await
    }

    /// The tags of the parts that are there and as big as they have to be.
    async fn parts(&self, id: &str, part: u64) -> Result<BTreeMap<i32, String>> {
        let mut there = BTreeMap::new();
        let mut marker = None;
        loop {
            let list = self.bucket.client.list_parts().bucket(&self.bucket.bucket);
            let list = list.key(self.bucket.key(self.key)?).upload_id(id);
            let page = match list.set_part_number_marker(marker).send().await.map_err(Failure::of) {
                Ok(page) => page,
                // Nothing to go on with is no reason to stop.
                Err(failure) if failure.status.is_some() => return Ok(there),
                Err(failure) => return Err(failure.error(&self.what())),
            };
            for found in page.parts() {
                let (Some(n), Some(tag)) = (found.part_number(), found.e_tag()) else { continue };
                let from = u64::try_from(n - 1).unwrap_or(0) * part;
                let wanted = part.min(self.size.saturating_sub(from));
                if found.size().and_then(|s| u64::try_from(s).ok()) == Some(wanted) {
                    there.insert(n, tag.to_string());
                }
            }
            marker = page.next_part_number_marker().map(str::to_string);
            if page.is_truncated() != Some(true) || marker.is_none() {
                return Ok(there);
            }
        }
    }

    async fn part(&self, id: &str, number: i32, from: u64, bytes: u64) -> Result<String> {
        let mut buffer = vec![0; bytes as usize];
        let read = self.file.read_exact_at(&mut buffer, from);
        read.map_err(|e| Error::io(self.path.display(), e))?;
        let request = self.bucket.client.upload_part().bucket(&self.bucket.bucket);
        let request = request.key(self.bucket.key(self.key)?).upload_id(id).part_number(number);
        let sent = request.body(ByteStream::from(buffer)).send().await;
        let sent = sent.map_err(|e| self.failed(e))?;
        let tag = sent.e_tag().map(str::to_string);
        tag.ok_or_else(|| Error::network(format!("{}: a part has no tag", self.what())))
    }

    async fn complete(&self, id: &str, parts: BTreeMap<i32, String>) -> Result<Put> {
        let parts = parts
            .into_iter()
            .map(|(number, tag)| CompletedPart::builder().part_number(number).e_tag(tag).build());
        let parts: Vec<_> = parts.collect();
        let mut tries = 0;
        loop {
            let all = CompletedMultipartUpload::builder().set_parts(Some(parts.clone())).build();
            let request = self.bucket.client.complete_multipart_upload();
            let request = request.bucket(&self.bucket.bucket).key(self.bucket.key(self.key)?);
            let request = request.upload_id(id).multipart_upload(all).if_none_match("*");
            let failure = match request.send().await.map_err(Failure::of) {
                Ok(_) => return Ok(Put::Created),
                Err(failure) => failure,
            };
            tries += 1;
            match failure.status {
                Some(412) => {
                    self.abort(id).await?;
                    return Ok(Put::Exists);
                }
                Some(409) if tries < TRIES_MAX => pause(tries).await,
                // Somebody else has completed the same upload, or our own answer was lost.
                Some(404) if self.is_there().await? => return Ok(Put::Exists),
                _ => return Err(failure.error(&self.what())),
            }
        }
    }

    async fn is_there(&self) -> Result<bool> {
        let head = self.bucket.client.head_object().bucket(&self.bucket.bucket);
        Ok(head.key(self.bucket.key(self.key)?).send().await.is_ok())
    }

    async fn abort(&self, id: &str) -> Result<()> {
        let abort = self.bucket.client.abort_multipart_upload().bucket(&self.bucket.bucket);
        let abort = abort.key(self.bucket.key(self.key)?).upload_id(id);
        abort.send().await.map(drop).map_err(|e| self.failed(e))
    }

    fn what(&self) -> String {
        self.bucket.what(self.key)
    }

    fn failed<E>(
        &self,
        error: aws_sdk_s3::error::SdkError<E, aws_sdk_s3::config::http::HttpResponse>,
    ) -> Error
    where
        E: std::error::Error + aws_sdk_s3::error::ProvideErrorMetadata + 'static,
    {
        Failure::of(error).error(&self.what())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_few_and_equal() {
        assert_eq!(part_bytes(1), PART_BYTES);
        assert_eq!(part_bytes(PART_BYTES * PARTS_MAX), PART_BYTES);
        let huge = part_bytes(5 << 40);
        assert!(huge.is_multiple_of(1 << 20) && (5_u64 << 40).div_ceil(huge) <= PARTS_MAX);
    }
}
