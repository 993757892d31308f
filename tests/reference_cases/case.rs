//! A reference case, read from a safetensors file.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use half::f16;
use maxmargin::choice::Choice;
use maxmargin::model::{LeNet5, Model, ModelState, Parameter, WideResNet, batch_dims};
use maxmargin::tape::Norm;
use safetensors::{Dtype, SafeTensors};

use super::numbers::{hashed_signed, hashed_unsigned, hashed_weights, to_nhwc};

/// A tensor in PyTorch's layout.
#[derive(Clone, Debug)]
pub struct ReferenceTensor {
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Elements in double precision, which holds every stored type exactly.
    pub values: Vec<f64>,
}

/// A file of the reference folder. Getters panic if the file lacks the tensor or the metadata.
#[derive(Clone, Debug)]
pub struct ReferenceCase {
    /// File name without the extension.
    pub name: String,
    /// Metadata in the file's header.
    pub metadata: HashMap<String, String>,
    /// Tensors by name.
    pub tensors: BTreeMap<String, ReferenceTensor>,
    folder: PathBuf,
    read: RefCell<BTreeSet<String>>,
}

impl ReferenceCase {
    /// Reads a file.
    pub fn read(path: &Path) -> ReferenceCase {
        let named = |what: &str| format!("{}: {what}", path.display());
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}", named(&e.to_string())));
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap_or_else(|e| panic!("{}", named(&e.to_string())));
        let file = SafeTensors::deserialize(&bytes).expect("the header was read");
        let tensor = |name: &str| {
            let view = file.tensor(name).expect("names are the file's");
            let values = decode(view.dtype(), view.data()).unwrap_or_else(|e| panic!("{}", named(&e)));
            (name.to_string(), ReferenceTensor { shape: view.shape().to_vec(), values })
        };
        ReferenceCase {
            name: path.file_stem().expect("a file has a name").to_string_lossy().into_owned(),
            metadata: header.metadata().clone().unwrap_or_default(),
            tensors: file.names().into_iter().map(tensor).collect(),
            folder: path.parent().expect("a file has a folder").to_path_buf(),
            read: RefCell::default(),
        }
    }

    /// True if the metadata has `key = value`.
    pub fn has(&self, key: &str, value: &str) -> bool {
        self.metadata.get(key).is_some_and(|v| v == value)
    }

    /// Text in the metadata.
    pub fn text(&self, key: &str) -> &str {
        self.metadata.get(key).unwrap_or_else(|| panic!("metadata {key} is missing"))
    }

    /// Number in the metadata.
    pub fn number<T: FromStr>(&self, key: &str) -> T {
        self.text(key).parse().unwrap_or_else(|_| panic!("metadata {key} = {:?} is not a number", self.text(key)))
    }

    /// Name of an enum's variant in the metadata.
    pub fn choice<T: Choice>(&self, key: &str) -> T {
        T::from_name(self.text(key)).unwrap_or_else(|| panic!("metadata {key}: no value is called {}", self.text(key)))
    }

    /// Tensor of this name, if the case has it.
    pub fn find(&self, name: &str) -> Option<&ReferenceTensor> {
        self.read.borrow_mut().insert(name.to_string());
        self.tensors.get(name)
    }

    /// Tensor of this name.
    pub fn tensor(&self, name: &str) -> &ReferenceTensor {
        self.find(name).unwrap_or_else(|| panic!("tensor {name} is missing"))
    }

    /// Elements of a tensor.
    pub fn values(&self, name: &str) -> &[f64] {
        &self.tensor(name).values
    }

    /// Elements of a tensor in single precision.
    pub fn f32s(&self, name: &str) -> Vec<f32> {
        self.values(name).iter().map(|&v| v as f32).collect()
    }

    /// True for each example that single precision decides, if the case says it in the tensor `name`.
    pub fn stable(&self, name: &str) -> Option<Vec<bool>> {
        self.find(name)?;
        Some(self.u32s(name).into_iter().map(|stable| stable == 1).collect())
    }

    /// Number of examples that the case says single precision cannot decide.
    pub fn unstable(&self) -> usize {
        let marks = self.tensors.iter().filter(|(name, _)| *name == "stable" || name.ends_with(".stable"));
        marks.flat_map(|(_, tensor)| &tensor.values).filter(|stable| **stable == 0.0).count()
    }

    /// Elements of a tensor as counts.
    pub fn u32s(&self, name: &str) -> Vec<u32> {
        let count = |&v: &f64| {
            assert!(v >= 0.0 && v == f64::from(v as u32), "{name} holds {v}, expected counts");
            v as u32
        };
        self.values(name).iter().map(count).collect()
    }

    /// Names of the tensors that were not read. A replay must compare all outputs of a case.
    pub fn unread(&self) -> Vec<String> {
        let read = self.read.borrow();
        self.tensors.keys().filter(|name| !read.contains(*name)).cloned().collect()
    }

    /// The images `name` as bytes `[n, h, w, c]`, and their number `n`. Their shape must be `model`'s.
    pub fn images(&self, name: &str, model: &dyn Model) -> (Vec<u8>, usize) {
        let ReferenceTensor { shape, values } = self.tensor(name);
        let (n, [h, w, c]) = (shape[0], model.image());
        assert_eq!(shape[..], [n, c, h, w], "shape of {name}");
        let bytes: Vec<u8> = values.iter().map(|&v| v as u8).collect();
        (to_nhwc(&bytes, shape), n)
    }

    /// The case's model, and its state in this project's layouts.
    pub fn model(&self) -> (Box<dyn Model>, ModelState) {
        let model: Box<dyn Model> = match self.text("model") {
            "lenet5" => Box::new(LeNet5::new(self.number("width"))),
            "wide_resnet" => Box::new(WideResNet::new(self.number("depth"), self.number("widen"))),
            other => panic!("model {other:?} is not known"),
        };
        let tensor: ParameterValues = match self.text("weights").split_once(':') {
            Some(("hash", seed)) => {
                let seed = seed.parse().unwrap_or_else(|_| panic!("weights hash:{seed} is not a seed"));
                let names = state_dict(&*model);
                let place = move |name: &str| names.iter().position(|n| n == name).expect("names are the model's");
                Box::new(move |p| hashed_weights(seed, place(&p.name), &p.name, &p.shape))
            }
            Some(("file", file)) => {
                let file = ReferenceCase::read(&self.folder.join(file));
                Box::new(move |p| {
                    assert_eq!(file.tensor(&p.name).shape, p.shape, "shape of {} in {}", p.name, file.name);
                    file.f32s(&p.name)
                })
            }
            _ => panic!("metadata weights = {:?}, expected hash:S or file:F", self.text("weights")),
        };
        let kept = model.stored().map(|params| params.list.iter().flat_map(|p| p.from_torch(&tensor(p))).collect());
        let state = kept.collect();
        (model, state)
    }
}

/// Function that gives the values of a parameter in PyTorch's layout.
type ParameterValues = Box<dyn Fn(&Parameter) -> Vec<f32>>;

/// Names of a model's state dict in PyTorch's order: a batch norm's running statistics follow its bias.
fn state_dict(model: &dyn Model) -> Vec<String> {
    let mut names = Vec::new();
    for p in &model.params().list {
        names.push(p.name.clone());
        let running = p.name.strip_suffix("bias").map(|layer| format!("{layer}running_"));
        let its_own = |s: &&Parameter| running.as_ref().is_some_and(|running| s.name.starts_with(running));
        names.extend(model.statistics().into_iter().flat_map(|s| &s.list).filter(its_own).map(|s| s.name.clone()));
    }
    names
}

/// Random numbers of the attack on the batch `x` `[n, h, w, c]`. `spec` is `hash:S`, or `none` for numbers with which
/// the attack starts at `x`.
pub fn start_noise(spec: &str, norm: Norm, model: &dyn Model, x: &[f32]) -> Vec<f32> {
    let Some(seed) = spec.strip_prefix("hash:") else {
        assert_eq!(spec, "none", "metadata noise");
        return if norm == Norm::Linf { vec![0.0; x.len()] } else { x.to_vec() };
    };
    let seed = seed.parse().unwrap_or_else(|_| panic!("noise hash:{seed} is not a seed"));
    let number = if norm == Norm::Linf { hashed_signed } else { hashed_unsigned };
    let [h, w, c] = model.image();
    let torch: Vec<f32> = (0..x.len()).map(|i| number(seed, i)).collect();
    to_nhwc(&torch, &[x.len() / batch_dims(model, 1).iter().product::<usize>(), c, h, w])
}

/// Converts pixels from bytes to [0, 1].
pub fn unit(bytes: &[u8]) -> Vec<f32> {
    bytes.iter().map(|&b| f32::from(b) / 255.0).collect()
}

fn decode(dtype: Dtype, data: &[u8]) -> Result<Vec<f64>, String> {
    fn each<const N: usize>(data: &[u8], number: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        data.as_chunks().0.iter().map(|&bytes| number(bytes)).collect()
    }
    Ok(match dtype {
        Dtype::U8 => each(data, |[byte]| f64::from(byte)),
        Dtype::I32 => each(data, |b| f64::from(i32::from_le_bytes(b))),
        Dtype::F16 => each(data, |b| f16::from_le_bytes(b).to_f64()),
        Dtype::F32 => each(data, |b| f64::from(f32::from_le_bytes(b))),
        Dtype::F64 => each(data, f64::from_le_bytes),
        other => return Err(format!("unexpected element type {other:?}")),
    })
}
