//! Stages: steps that make one layer together, the keys they are kept under, and their execution.

use std::fs::File;
use std::path::Path;

use bundle::{Arch, Digest, Hasher};
use imgrun::{Progress, Unit};
use serde::{Deserialize, Serialize};

use crate::cache::Cache;
use crate::inject::Agent;
use crate::kernel::BuiltKernel;
use crate::recipe::{Action, Command, Install, Recipe, Variables};
use crate::source::Layer;
use crate::{Error, Result};

use super::host::HostTree;
use super::layer::{self, Stored};
use super::machine::{self, Executor, Job, OnError, Secret};
use super::view::View;
use super::{base, packages, upper};

/// Part of every key: raised when the same steps begin to give other layers.
const PROCEDURE: u32 = 2;

/// All that is done to a recipe's source, in order.
#[derive(Clone, Debug)]
pub struct Stages {
    /// The stages.
    pub all: Vec<Stage>,
    epoch: Option<u64>,
    variables: Variables,
}

/// Steps that make one layer.
#[derive(Clone, Debug)]
pub struct Stage {
    /// One line that names it: `step 3 (run make)`.
    pub title: String,
    /// What it does.
    pub work: Work,
    meaning: Vec<Part>,
    /// What each `copy` found.
    copied: Vec<Digest>,
}

/// What a stage does.
#[derive(Clone, Debug)]
pub enum Work {
    /// Edits files.
    Files(Vec<Action>),
    /// Runs a command.
    Run(Command),
    /// Installs packages.
    Packages(Install),
}

/// A part of a key: what it is about, and its value or digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// `step 3`, `copied files`, `layers below`.
    pub name: String,
    /// In words where it is short.
    pub value: String,
}

/// A part of a key that is not as it was at the last build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The part's name.
    pub name: String,
    /// Its value at the last build; `None` where there was none.
    pub before: Option<String>,
    /// Its value now; `None` where there is none.
    pub now: Option<String>,
}

/// What will become of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Its layer is in the cache.
    Cached,
    /// It has to be done.
    Runs,
    /// Something below it has to be done first; where that comes out as before, it need not.
    Unknown,
}

/// A stage as a plan shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Seen {
    /// Its title.
    pub title: String,
    /// What will become of it.
    pub outcome: Outcome,
    /// Why, where there was a build before: the parts of its key that differ.
    pub differences: Vec<Difference>,
    /// Whether there was such a stage at the last build.
    pub known: bool,
}

/// What stages are executed with.
#[derive(Clone, Debug)]
pub struct Site<'s> {
    /// The machine that is built for.
    pub arch: Arch,
    /// The agent that runs commands.
    pub agent: &'s Agent,
    /// The kernel that it runs on.
    pub kernel: &'s BuiltKernel,
    /// The environment that the source's image asks for, `NAME=value` each.
    pub environment: &'s [String],
    /// Secrets that were given.
    pub secrets: &'s [Secret],
    /// Where commands run.
    pub executor: Executor,
    /// What to do when a command fails.
    pub on_error: OnError,
    /// Where to keep what a failed command wrote.
    pub output: &'s Path,
    /// Whether packages are to be installed anew.
    pub refresh: bool,
    /// Whether every step is to be executed, whatever the cache has.
    pub anew: bool,
    /// Whether steps that need the network are refused.
    pub offline: bool,
}

/// What the cache notes about a layer; `blob` and `name` are what `imgtool cache` reads.
#[derive(Serialize, Deserialize)]
struct Note {
    blob: Digest,
    bytes: u64,
    name: String,
    step: bool,
}

impl Stages {
    /// The stages of `recipe` for `arch`. Files that are copied are read.
    ///
    /// # Errors
    /// Where such a file can not be read.
    pub fn of(recipe: &Recipe, arch: Arch) -> Result<Stages> {
        let variables = Variables::new(&recipe.name, &recipe.version, arch);
        let epoch = recipe.source_date_epoch;
        let mut stages = Stages { all: Vec::new(), epoch, variables };
        for (at, step) in recipe.steps.iter().enumerate() {
            if step.arch.is_empty() || step.arch.contains(&arch) {
                stages.add(at + 1, step.action.filled(&stages.variables))?;
            }
        }
        Ok(stages)
    }

    fn add(&mut self, number: usize, action: Action) -> Result<()> {
        let (meaning, copied) = meaning(number, &action)?;
        let title = format!("step {number} ({})", action.title());
        let last = self.all.last_mut();
        let work = match (action, last) {
            (Action::Run(command), _) => Work::Run(command),
            (Action::Packages(install), _) => Work::Packages(install),
            (
                action,
                Some(Stage { work: Work::Files(actions), meaning: all, title, copied: found }),
            ) => {
                let first = title.split(['(', '-']).next().unwrap_or_default();
                let first = first.trim_start_matches("steps").trim_start_matches("step").trim();
                *title = format!("steps {first}-{number} (files)");
                actions.push(action);
                all.extend(meaning);
                found.extend(copied);
                return Ok(());
            }
            (action, _) => Work::Files(vec![action]),
        };
        let copied = copied.into_iter().collect();
        self.all.push(Stage { title, work, meaning, copied });
        Ok(())
    }

    /// Whether one of them runs programs.
    pub fn boot(&self) -> bool {
        self.all.iter().any(|stage| !matches!(stage.work, Work::Files(_)))
    }

    /// The meaning of all of them, for the key of a whole build.
    pub fn digest(&self) -> Digest {
        let mut hasher = Hasher::new();
        for part in self.all.iter().flat_map(|stage| &stage.meaning) {
            hasher.field(&part.name);
            hasher.field(&part.value);
        }
        hasher.finish()
    }

    /// The layers of `below` with those of all stages on top. What is in the cache is not done
    /// again.
    ///
    /// # Errors
    /// Where a step fails, naming it.
    pub fn run(
        &self,
        below: Vec<Layer>,
        site: &Site,
        last: &Path,
        cache: &Cache,
        progress: &Progress,
    ) -> Result<Vec<Layer>> {
        let mut layers = below;
        let mut record = Vec::new();
        for stage in &self.all {
            let parts = self.parts(stage, &layers, site);
            let key = key(&parts);
            let anew = site.anew || site.refresh && matches!(stage.work, Work::Packages(_));
            let stored = match find(&key, cache).filter(|_| !anew) {
                Some(stored) => {
                    progress.note(format!("{}: as before, from the cache", stage.title));
                    stored
                }
                None => {
                    let made = self.make(stage, &layers, site, cache, progress);
                    let stored = made.map_err(|e| e.within(&stage.title))?;
                    let name = stage.title.clone();
                    let note = Note { blob: stored.digest, bytes: stored.bytes, name, step: true };
                    set_note(&key, &note, cache)?;
                    stored
                }
            };
            record.push(parts);
            layers.push(stored.layer(&stage.title, cache)?);
            // After each stage: a later one may fail.
            set_note(&record_key(last, site.arch), &Record { stages: record.clone() }, cache)?;
        }
        Ok(layers)
    }

    /// What will become of each stage, and why, as far as can be known.
    pub fn look(&self, below: &[Layer], site: &Site, last: &Path, cache: &Cache) -> Vec<Seen> {
        let note = cache.note(&record_key(last, site.arch));
        let record = note.and_then(|n| serde_json::from_slice::<Record>(&n).ok());
        let record = record.unwrap_or_default().stages;
        let mut layers = Some(below.to_vec());
        let mut seen = Vec::new();
        for (at, stage) in self.all.iter().enumerate() {
            let before = record.get(at);
            let parts = match &layers {
                Some(layers) => self.parts(stage, layers, site),
                None => stage.meaning.clone(),
            };
            let found = layers.as_ref().and_then(|_| find(&key(&parts), cache));
            let outcome = match (&found, &layers) {
                (Some(_), _) => Outcome::Cached,
                (None, Some(_)) => Outcome::Runs,
                (None, None) if before.is_some_and(|b| !same_meaning(b, &parts)) => Outcome::Runs,
                (None, None) => Outcome::Unknown,
            };
            let differences = match (outcome, before) {
                (Outcome::Cached, _) | (_, None) => Vec::new(),
                (_, Some(before)) => differences(before, &parts, layers.is_some()),
            };
            let (title, known) = (stage.title.clone(), before.is_some());
            seen.push(Seen { title, outcome, differences, known });
            layers = layers.and_then(|mut layers| {
                layers.push(found?.layer(&stage.title, cache).ok()?);
                Some(layers)
            });
        }
        seen
    }

    /// All that decides a stage's layer.
    fn parts(&self, stage: &Stage, below: &[Layer], site: &Site) -> Vec<Part> {
        let mut parts = stage.meaning.clone();
        let mut add = |name: &str, value: String| {
            parts.push(Part { name: name.to_string(), value });
        };
        let mut hasher = Hasher::new();
        below.iter().for_each(|layer| hasher.field(layer.digest.as_bytes()));
        add("layers below", hasher.finish().to_string());
        add("source_date_epoch", self.epoch.map_or("none".to_string(), |e| e.to_string()));
        add("procedure", PROCEDURE.to_string());
        if let Work::Files(_) = stage.work {
            return parts;
        }
        add("agent", site.agent.digest().to_string());
        add("kernel", site.kernel.digest.to_string());
        add("machine", format!("{} {}", site.arch, machine::PROCEDURE));
        add("environment", site.environment.join(" "));
        for (name, value) in self.variables.iter() {
            add(&format!("{{{name}}}"), value.to_string());
        }
        if let Work::Packages(_) = stage.work {
            add("package scripts", packages::PROCEDURE.to_string());
        }
        parts
    }

    fn make(
        &self,
        stage: &Stage,
        below: &[Layer],
        site: &Site,
        cache: &Cache,
        progress: &Progress,
    ) -> Result<Stored> {
        let image = base::image(below, site.agent, self.epoch, cache, progress)?;
        let open = || File::open(&image).map_err(|e| Error::io(image.display(), e));
        let reader = || ext4::read::Reader::open(open()?).map_err(crate::inspect::failed(&image));
        let show = progress.stage(&stage.title, Unit::Items, None);
        let command = match &stage.work {
            Work::Files(actions) => {
                let mut view = View::new(reader()?, self.epoch);
                let mut copied = stage.copied.iter();
                actions.iter().try_for_each(|action| view.apply(action, &mut copied))?;
                let stored = layer::store(cache, |tar| layer::write_view(view, tar))?;
                show.finish(format!("a layer of {}", Unit::Bytes.amount(stored.bytes)));
                return Ok(stored);
            }
            Work::Run(command) => command.clone(),
            Work::Packages(install) => Command {
                argv: packages::command(install, &mut reader()?)?,
                network: install.network,
                secrets: Vec::new(),
                env: Vec::new(),
                user: None,
                workdir: None,
                timeout: install.timeout,
            },
        };
        if command.network && site.offline {
            return Err(Error::network("it needs the network, and --offline forbids it"));
        }
        let epoch = self.epoch.ok_or_else(|| Error::bug("a command without an epoch"))?;
        let job = Job {
            image: &image,
            command: &command,
            site,
            environment: self.environment(site, epoch),
            epoch,
        };
        let disk = job.run(cache, progress, &show)?;
        let placed = job.placed();
        let store = |tar: &mut layer::Tar| upper::write(disk, open()?, &placed, epoch, tar);
        let stored = layer::store(cache, store)?;
        show.finish(format!("a layer of {}", Unit::Bytes.amount(stored.bytes)));
        Ok(stored)
    }

    fn environment(&self, site: &Site, epoch: u64) -> Vec<String> {
        let mut all = site.environment.to_vec();
        all.push(format!("SOURCE_DATE_EPOCH={epoch}"));
        let ours = self.variables.iter();
        all.extend(ours.map(|(name, value)| format!("IMGTOOL_{}={value}", name.to_uppercase())));
        all
    }
}

/// What a step means: its words, and the digest of what it copies, which is told by itself, too.
fn meaning(number: usize, action: &Action) -> Result<(Vec<Part>, Option<Digest>)> {
    let name = format!("step {number}");
    let Action::Copy { from, to, put } = action else {
        let value = serde_json::to_string(action).map_err(|e| Error::bug("a step").because(e))?;
        return Ok((vec![Part { name, value }], None));
    };
    // Where it lies on this machine decides nothing but the name that it gets below `to`.
    let file = from.file_name().unwrap_or_default().to_string_lossy();
    let words = serde_json::json!({ "copy": { "file": file, "to": to, "put": put } });
    let copied = HostTree::read(from).map_err(|e| e.within(format!("step {number}: copy")))?;
    let digest = copied.digest();
    let files = Part { name: format!("{name}'s files"), value: digest.to_string() };
    Ok((vec![Part { name, value: words.to_string() }, files], Some(digest)))
}

fn key(parts: &[Part]) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field("imgtool step");
    for part in parts {
        hasher.field(&part.name);
        hasher.field(&part.value);
    }
    hasher.finish()
}

fn find(key: &Digest, cache: &Cache) -> Option<Stored> {
    let note: Note = serde_json::from_slice(&cache.note(key)?).ok()?;
    cache.find(&note.blob, note.bytes)?;
    Some(Stored { digest: note.blob, bytes: note.bytes })
}

fn set_note(key: &Digest, note: &impl Serialize, cache: &Cache) -> Result<()> {
    let json = serde_json::to_vec(note).map_err(|e| Error::bug("write a note").because(e))?;
    cache.set_note(key, &json)
}

impl Stored {
    fn layer(&self, title: &str, cache: &Cache) -> Result<Layer> {
        let file = cache.find(&self.digest, self.bytes);
        let file = file.ok_or_else(|| Error::host(format!("{} left the cache", self.digest)))?;
        let origin = format!("the layer of {title}");
        let (bytes, digest) = (self.bytes, self.digest);
        Ok(Layer { origin, file, offset: 0, bytes, digest, content: None })
    }
}

/// The keys of the last build, part by part.
#[derive(Default, Serialize, Deserialize)]
struct Record {
    stages: Vec<Vec<Part>>,
}

fn record_key(recipe: &Path, arch: Arch) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field("the last build's steps");
    hasher.field(recipe.to_string_lossy().as_bytes());
    hasher.field(arch.name());
    hasher.finish()
}

fn same_meaning(before: &[Part], now: &[Part]) -> bool {
    now.iter().all(|part| before.contains(part))
}

/// How two keys differ; without `whole` only what `now` has is compared.
fn differences(before: &[Part], now: &[Part], whole: bool) -> Vec<Difference> {
    let value = |parts: &[Part], name: &str| {
        parts.iter().find(|part| part.name == name).map(|part| part.value.clone())
    };
    let mut names: Vec<&str> = now.iter().map(|part| part.name.as_str()).collect();
    if whole {
        names.extend(before.iter().map(|part| part.name.as_str()));
    }
    let mut all: Vec<Difference> = Vec::new();
    for name in names {
        let (before, now) = (value(before, name), value(now, name));
        if before != now && !all.iter().any(|d| d.name == name) {
            all.push(Difference { name: name.to_string(), before, now });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_file_steps_make_one_stage_and_keys_differ_by_what_they_mean() {
        let recipe = |more: &str| {
            let text = format!(
                "name = \"a\"\nversion = \"1\"\nsource_date_epoch = 1\n[source]\ntarball = \"t\"\n\
                 [[step]]\nmkdir = \"/a\"\n[[step]]\nwrite = \"/a/b\"\ncontent = \"{{version}}\"\n\
                 [[step]]\nrun = \"true\"\n[[step]]\nremove = \"/x\"\narch = [\"aarch64\"]\n{more}"
            );
            Stages::of(&Recipe::parse(&text, Path::new("r.toml")).unwrap(), Arch::X86_64).unwrap()
        };
        let stages = recipe("");
        let titles: Vec<_> = stages.all.iter().map(|stage| stage.title.as_str()).collect();
        assert_eq!(titles, ["steps 1-2 (files)", "step 3 (run true)"]);
        let more = recipe("[[step]]\ntruncate = \"/a/b\"\n");
        assert_eq!(more.all[2].title, "step 5 (truncate /a/b)");
        assert_ne!(stages.digest(), more.digest());
        assert!(stages.all[0].meaning[1].value.contains("\"text\":\"1\""));
        let now = [Part { name: "step 1".into(), value: "b".into() }];
        let before = [Part { name: "step 1".into(), value: "a".into() }];
        let found = differences(&before, &now, true);
        assert_eq!((found.len(), found[0].before.as_deref()), (1, Some("a")));
    }
}
