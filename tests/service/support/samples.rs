//! A scrape of `/metrics`, as numbers by name and labels.

use std::collections::{BTreeMap, BTreeSet};

/// The samples of one scrape.
#[derive(Clone, Debug)]
pub(crate) struct Samples {
    /// By name and labels as they stand in the text.
    values: BTreeMap<String, f64>,
    /// Families by their type.
    pub(crate) families: BTreeMap<String, String>,
}

impl Samples {
    /// Parses the text; whatever is no sample, HELP or TYPE fails the test, and so does a sample that stands twice.
    pub(crate) fn parse(text: &str) -> Samples {
        let mut samples = Samples { values: BTreeMap::new(), families: BTreeMap::new() };
        let mut helped = BTreeSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                assert!(helped.insert(rest.split(' ').next().map(str::to_owned)), "helped twice: {line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a name and a type");
                let before = samples.families.insert(name.to_owned(), kind.to_owned());
                assert_eq!(before, None, "typed twice: {line}");
            } else {
                let (name, value) = line.rsplit_once(' ').expect("a sample is a name and a value");
                let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
                assert_eq!(samples.values.insert(name.to_owned(), value), None, "sampled twice: {line}");
            }
        }
        samples
    }

    /// The value of this sample, named with its labels as in the text.
    #[track_caller]
    pub(crate) fn get(&self, name: &str) -> f64 {
        *self.values.get(name).unwrap_or_else(|| panic!("there is no sample {name}"))
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.values.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// The type of the family that a sample belongs to.
    pub(crate) fn kind_of(&self, sample: &str) -> &str {
        let name = sample.split('{').next().unwrap_or_default();
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| {
            name.strip_suffix(suffix)
                .filter(|base| self.families.get(*base).is_some_and(|k| k == "histogram"))
        });
        &self.families[base.unwrap_or(name)]
    }

    /// Samples of requests that were answered with an error inside the service.
    pub(crate) fn server_errors(&self) -> Vec<&str> {
        let named =
            |name: &str| name.starts_with("maas_http_requests_total{") && name.contains("status=\"50");
        let expected = |name: &str| name.contains("status=\"503\"") || name.contains("status=\"507\"");
        let failed = self.iter().filter(|(name, value)| named(name) && !expected(name) && *value > 0.0);
        failed.map(|(name, _)| name).collect()
    }
}
