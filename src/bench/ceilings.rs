//! Rates that all items are compared with: rates of PyTorch on the same GPU, or our own.
//!
//! `benches/peers/ceilings.py` measures the largest rates of a GPU with PyTorch alone and writes them as JSON. Every
//! figure of the file may be missing. A file of another form, or of another device than the one that is timed, is
//! refused.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::{Error, Result, formats};

/// Keys of the copy that items are compared with.
const COPY: [&str; 2] = ["copy_bytes_per_s", "200 MB"];
/// Keys of the matrix product that items are compared with.
const PRODUCT: [&str; 3] = ["matmul_flops_per_s", "fp32", "8192"];
/// Keys of the time from a kernel to the next one within a CUDA graph.
const GRAPH_NODE: [&str; 2] = ["launch_s", "graph_node"];

/// Rates that our own kernels reached in this bench, which are below the peaks of the device.
#[derive(Clone, Debug, Serialize)]
pub struct OwnRates {
    /// Bytes a second, read and written, of a copy of [`super::BenchSettings::megabytes`].
    pub copy_bytes_per_s: f64,
    /// Floating-point operations a second of the fastest matrix product.
    pub product_flops_per_s: f64,
    /// Rows, columns and depth of that product.
    pub product_size: usize,
}

/// Rates that a GPU reached with PyTorch.
#[derive(Clone, Debug)]
pub struct Ceilings {
    path: PathBuf,
    device: String,
    copy: Option<f64>,
    product: Option<f64>,
    graph_node: Option<f64>,
}

/// A rate that items are compared with.
#[derive(Clone, Debug, Serialize)]
pub struct Reference {
    /// Bytes or floating-point operations a second.
    pub per_s: f64,
    /// Description of the origin of the rate.
    pub source: String,
}

/// Rates that items are compared with.
#[derive(Clone, Debug, Serialize)]
pub struct References {
    /// Bytes a second, read and written.
    pub copy: Reference,
    /// Floating-point operations a second.
    pub product: Reference,
    /// Seconds from a kernel to the next one within a CUDA graph, if the ceilings have it.
    pub graph_node_s: Option<f64>,
}

impl Ceilings {
    /// Reads the file of `benches/peers/ceilings.py`.
    ///
    /// # Errors
    /// The file cannot be read, or is not such a file.
    pub fn read(path: &Path) -> Result<Ceilings> {
        let bytes = fs::read(path).map_err(|e| Error::io(path, "read", e))?;
        let invalid = |found: String| {
            Error::format(path, format!("expected the JSON that benches/peers/ceilings.py writes; found {found}"))
        };
        let text = formats::text(bytes).map_err(&invalid)?;
        let file: Value = serde_json::from_str(&text).map_err(|e| invalid(e.to_string()))?;
        let device = match file.get("device") {
            Some(Value::String(device)) => device.clone(),
            Some(other) => return Err(invalid(format!("{other} as \"device\""))),
            None => return Err(invalid("no \"device\"".into())),
        };
        let figure = |keys: &[&str]| match keys.iter().try_fold(&file, |inner, key| inner.get(key)) {
            None | Some(Value::Null) => Ok(None),
            Some(found) => match found.as_f64().filter(|figure| *figure > 0.0) {
                Some(figure) => Ok(Some(figure)),
                None => Err(Error::format(path, format!("{}: expected a positive number; found {found}", name(keys)))),
            },
        };
        let (copy, product, graph_node) = (figure(&COPY)?, figure(&PRODUCT)?, figure(&GRAPH_NODE)?);
        Ok(Ceilings { path: path.to_owned(), device, copy, product, graph_node })
    }

    /// Refuses ceilings of another device than the one of this description.
    ///
    /// # Errors
    /// The names differ.
    pub(super) fn check_device(&self, description: &str) -> Result<()> {
        // The description has the GPU's number before its name.
        let name =
            description.strip_prefix("GPU ").and_then(|gpu| gpu.split_once(", ")).map_or(description, |gpu| gpu.1);
        if self.device == name {
            return Ok(());
        }
        Err(Error::format(
            &self.path,
            format!("device: expected ceilings of {name}, which is timed here; found ceilings of {}", self.device),
        ))
    }
}

impl References {
    /// Rates of the ceilings, or our own for rates that the ceilings lack.
    pub(super) fn new(ceilings: Option<&Ceilings>, own: &OwnRates, megabytes: usize) -> References {
        let one = |theirs: Option<f64>, what: &str, keys: &[&str], own: f64, own_what: String| match (ceilings, theirs)
        {
            (Some(Ceilings { device, .. }), Some(per_s)) => {
                Reference { per_s, source: format!("{what}, measured with PyTorch on {device}") }
            }
            (Some(Ceilings { path, .. }), None) => {
                let source = format!("{own_what}, measured here: {} has no {}", path.display(), name(keys));
                Reference { per_s: own, source }
            }
            (None, _) => Reference { per_s: own, source: format!("{own_what}, measured here") },
        };
        let size = own.product_size;
        References {
            copy: one(
                ceilings.and_then(|file| file.copy),
                "PyTorch's copy of 200 MB",
                &COPY,
                own.copy_bytes_per_s,
                format!("our own copy of {megabytes} MB"),
            ),
            product: one(
                ceilings.and_then(|file| file.product),
                "cuBLAS fp32 8192 x 8192 x 8192",
                &PRODUCT,
                own.product_flops_per_s,
                format!("our own product {size} x {size} x {size} in fp32 (not the device's peak)"),
            ),
            graph_node_s: ceilings.and_then(|file| file.graph_node),
        }
    }
}

fn name(keys: &[&str]) -> String {
    keys.join(", ")
}
