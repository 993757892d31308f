//! A model in a precision: as attacks see it, and as the passes of a training step do.

use std::sync::Arc;

use half::f16;

use super::input_layer::InputLayer;
use super::network::{Mode, Model, ModelState, OutputLayer, image_buffer};
use super::params::Params;
use crate::device::Schedule;
use crate::tape::{Buffer, HalfFilter, HalfGradients, Memory, Precision, Program, Tape, Value};

/// A model whose logits are recorded in a precision: a program that reads them stores activations and their gradients
/// in it. The parameters are the model's own.
pub struct ModelInPrecision<'a> {
    model: &'a dyn Model,
    half: Option<Half>,
}

/// Half precision of a model.
struct Half {
    /// Copies of the filters that layers read.
    filters: Arc<Vec<HalfFilter>>,
    /// Scale of the gradients.
    gradients: HalfGradients,
    /// Program that writes the copies before the model is used; `None` if a [`StepModels`] does.
    pack: Option<Arc<Program>>,
}

/// A model in the precisions of a training step. One copy of the filters serves its attacks and its training passes.
pub struct StepModels<'a> {
    /// The model as attacks see it.
    pub attacked: ModelInPrecision<'a>,
    /// The model as passes with gradients of the weights see it.
    pub trained: ModelInPrecision<'a>,
    /// Programs that run at the start of a step.
    pub preparation: Schedule,
}

impl<'a> StepModels<'a> {
    /// The model in the precision of a step. Half precision declares copies of the filters.
    pub fn new(memory: &mut Memory, model: &'a dyn Model, precision: Precision) -> StepModels<'a> {
        let copies = (precision != Precision::Fp32).then(|| declare_filters(memory, model));
        let mut preparation = Schedule::default();
        copies.iter().for_each(|(_, pack)| preparation.then(pack, 1));
        let in_half = |gradients| {
            let half = copies.as_ref().map(|(filters, _)| Half { filters: filters.clone(), gradients, pack: None });
            ModelInPrecision { model, half }
        };
        let attacked = in_half(HalfGradients::ByExample);
        let trained = match precision {
            Precision::Fp16 => in_half(HalfGradients::AsRecorded),
            Precision::Fp32 | Precision::Fp16Attack => ModelInPrecision::single_precision(model),
        };
        StepModels { attacked, trained, preparation }
    }
}

impl<'a> ModelInPrecision<'a> {
    /// The model as an attack sees it in a precision. Half precision declares copies of the filters.
    pub fn attacked(memory: &mut Memory, model: &'a dyn Model, precision: Precision) -> ModelInPrecision<'a> {
        let half = (precision != Precision::Fp32).then(|| {
            let (filters, pack) = declare_filters(memory, model);
            Half { filters, gradients: HalfGradients::ByExample, pack: Some(pack) }
        });
        ModelInPrecision { model, half }
    }

    /// The model in single precision.
    pub fn single_precision(model: &'a dyn Model) -> ModelInPrecision<'a> {
        ModelInPrecision { model, half: None }
    }

    /// The model itself, in single precision.
    pub fn itself(&self) -> &'a dyn Model {
        self.model
    }

    /// True in half precision.
    pub fn is_half(&self) -> bool {
        self.half.is_some()
    }

    /// Text about the first weight of `state` that is infinite or NaN in the precision, with the name of its layer.
    pub fn overflow(&self, state: &ModelState) -> Option<String> {
        let filters = self.half.iter().flat_map(|half| half.filters.iter());
        let found = filters.flat_map(|filter| {
            let name = &filter.weight.name;
            state[0][self.model.params().range(name)].iter().map(move |&value| (name, value))
        });
        let (name, value) = found.into_iter().find(|(_, value)| !f16::from_f32(*value).is_finite())?;
        Some(format!("{name}: expected weights of at most {}, found {value}", f16::MAX))
    }
}

/// Declares half-precision copies of a model's filters, and records the program that writes them.
fn declare_filters(memory: &mut Memory, model: &dyn Model) -> (Arc<Vec<HalfFilter>>, Arc<Program>) {
    let filters: Vec<HalfFilter> =
        half_weights(model).iter().map(|weight| HalfFilter::declare(memory, weight)).collect();
    let mut tape = Tape::new("pack_filters");
    tape.pack_filters(&filters);
    (Arc::new(filters), Arc::new(tape.finish()))
}

/// Weights of which a model's layers read half-precision copies, found by recording its logits once.
fn half_weights(model: &dyn Model) -> Vec<Buffer> {
    let mut memory = Memory::default();
    let weights = model.params().parts(model.params().buffer()).into_iter().filter(|part| part.dims.len() > 1);
    let filters: Vec<HalfFilter> = weights.map(|weight| HalfFilter::declare(&mut memory, &weight)).collect();
    let (images, logits) = (image_buffer(&mut memory, model, "x", 1), memory.f32("logits", &[1, model.classes()]));
    let mut tape = Tape::new("logits");
    tape.store_in_half(&filters, HalfGradients::ByExample);
    let x = tape.leaf(&images);
    let found = model.logits(&mut tape, x, Mode::Eval);
    tape.keep(found, &logits);
    let program = tape.finish();
    let is_read = |filter: &HalfFilter| program.values.iter().any(|value| value.home.as_ref() == Some(&filter.plain));
    filters.into_iter().filter(is_read).map(|filter| filter.weight).collect()
}

impl Model for ModelInPrecision<'_> {
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
            tape.store_in_half(&half.filters, half.gradients);
        }
        self.model.logits(tape, x, mode)
    }

    fn preparation(&self) -> Schedule {
        let mut schedule = Schedule::default();
        self.half.iter().filter_map(|half| half.pack.as_ref()).for_each(|pack| schedule.then(pack, 1));
        schedule
    }

    fn declare(&mut self, _: &mut Memory) {
        unreachable!("the model was declared before it is used in a precision")
    }
}
