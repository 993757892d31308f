//! A model as attacks see it, in a precision.

use std::sync::Arc;

use half::f16;

use super::input_layer::InputLayer;
use super::network::{Mode, Model, ModelState, OutputLayer, image_buffer};
use super::params::Params;
use crate::device::Schedule;
use crate::tape::{Buffer, HalfFilter, Memory, Precision, Program, Tape, Value};

/// A model whose logits are recorded in a precision: a program that reads them stores activations and their gradients
/// in it. The parameters are the model's own.
pub struct AttackedModel<'a> {
    model: &'a dyn Model,
    half: Option<HalfFilters>,
}

/// Half-precision copies of a model's filters, and the program that writes them.
struct HalfFilters {
    filters: Vec<HalfFilter>,
    pack: Arc<Program>,
}

impl<'a> AttackedModel<'a> {
    /// The model in a precision. Half precision declares copies of the filters.
    pub fn new(memory: &mut Memory, model: &'a dyn Model, precision: Precision) -> AttackedModel<'a> {
        let half = (precision == Precision::Fp16).then(|| HalfFilters::declare(memory, model));
        AttackedModel { model, half }
    }

    /// The model in single precision.
    pub fn single_precision(model: &'a dyn Model) -> AttackedModel<'a> {
        AttackedModel { model, half: None }
    }

    /// The model itself, in single precision.
    pub fn itself(&self) -> &'a dyn Model {
        self.model
    }

    /// True if the model is attacked in half precision.
    pub fn is_half(&self) -> bool {
        self.half.is_some()
    }

    /// Text about the first weight of `state` that is infinite or NaN in the precision, with the name of its layer.
    pub fn overflow(&self, state: &ModelState) -> Option<String> {
        let filters = self.half.iter().flat_map(|half| &half.filters);
        let found = filters.flat_map(|filter| {
            let name = &filter.weight.name;
            state[0][self.model.params().range(name)].iter().map(move |&value| (name, value))
        });
        let (name, value) = found.into_iter().find(|(_, value)| !f16::from_f32(*value).is_finite())?;
        Some(format!("{name}: expected weights of at most {}, found {value}", f16::MAX))
    }
}

impl HalfFilters {
    fn declare(memory: &mut Memory, model: &dyn Model) -> HalfFilters {
        let filters: Vec<HalfFilter> =
            half_weights(model).iter().map(|weight| HalfFilter::declare(memory, weight)).collect();
        let mut tape = Tape::new("pack_filters");
        filters.iter().for_each(|filter| tape.pack_filters(filter));
        HalfFilters { filters, pack: Arc::new(tape.finish()) }
    }
}

/// Weights of which a model's layers read half-precision copies, found by recording its logits once.
fn half_weights(model: &dyn Model) -> Vec<Buffer> {
    let mut memory = Memory::default();
    let weights = model.params().parts(model.params().buffer()).into_iter().filter(|part| part.dims.len() > 1);
    let filters: Vec<HalfFilter> = weights.map(|weight| HalfFilter::declare(&mut memory, &weight)).collect();
    let (images, logits) = (image_buffer(&mut memory, model, "x", 1), memory.f32("logits", &[1, model.classes()]));
    let mut tape = Tape::new("logits");
    tape.store_in_half(&filters);
    let x = tape.leaf(&images);
    let found = model.logits(&mut tape, x, Mode::Eval);
    tape.keep(found, &logits);
    let program = tape.finish();
    let is_read = |filter: &HalfFilter| program.values.iter().any(|value| value.home.as_ref() == Some(&filter.plain));
    filters.into_iter().filter(is_read).map(|filter| filter.weight).collect()
}

impl Model for AttackedModel<'_> {
    fn describe(&self) -> String {
        self.model.describe()
    }

    fn image(&self) -> [usize; 3] {
        self.model.image()
    }

    fn params(&self) -> &Params {
        self.model.params()
    }

    fn statistics(&self) -> Option<&Params> {
        self.model.statistics()
    }

    fn input_layer(&self) -> Option<&InputLayer> {
        self.model.input_layer()
    }

    fn output_layer(&self) -> OutputLayer {
        self.model.output_layer()
    }

    fn logits(&self, tape: &mut Tape, x: Value, mode: Mode) -> Value {
        if let Some(half) = &self.half {
            tape.store_in_half(&half.filters);
        }
        self.model.logits(tape, x, mode)
    }

    fn preparation(&self) -> Schedule {
        let mut schedule = Schedule::default();
        if let Some(half) = &self.half {
            schedule.then(&half.pack, 1);
        }
        schedule
    }

    fn declare(&mut self, _: &mut Memory) {
        unreachable!("the model was declared before it is attacked")
    }
}
