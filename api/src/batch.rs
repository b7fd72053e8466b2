//! Many operations in one request. This is the path of the highest throughput: one pass over the body, one call of the
//! engine, one buffer for the answer.

use axum::http::StatusCode;
use hotstock_engine::command::{Action, Command, InvalidField};
use hotstock_engine::outcome::{Answer, Outcome};
use serde_json::value::RawValue;

use crate::app::{App, Call, Reply};
use crate::body::parse;
use crate::limits::MAX_BATCH_OPERATIONS;
use crate::problem::Problem;
use crate::trace;
use crate::wire::answers::{AnyBody, created};
use crate::wire::batch::{BatchBody, BatchSchema, Operation, OperationError, ResultBody, ResultsBody};
use crate::wire::orders::Defaults;
use crate::wire::values::Object;

/// Carries out many operations. Those on the same order or SKU take effect in their order; one refused does not stop
/// the others.
#[utoipa::path(
    post, path = "/v1/batch", tag = "orders", request_body = BatchSchema,
    responses((status = 200, description = "One result per operation, in their order", body = ResultsBody))
)]
pub async fn batch(call: Call) -> Result<Reply, Problem> {
    let Checked { commands, reserves, refused } = Checked::read(&call)?;
    let outcomes = call.app.engine.submit_batch(commands).await;
    let body = write(&call, outcomes, &reserves, refused);
    Ok(Reply::new(StatusCode::OK, "application/json", body))
}

/// The operations of a batch: those for the engine, and those refused at the door.
struct Checked {
    commands: Vec<Command>,
    /// For every command, whether it is a reserve: only that is answered 201.
    reserves: Vec<bool>,
    /// The problems of the other operations, with their places in the batch.
    refused: Vec<(usize, Problem)>,
}

impl Checked {
    fn read(call: &Call) -> Result<Self, Problem> {
        let (text, defaults) = (call.body()?, &call.app.defaults);
        // A batch without a wrong operation is read in one pass. When that fails, the operations are told apart first,
        // so that a wrong one fails alone.
        if let Ok(Object(batch)) = serde_json::from_str::<Object<BatchBody<Object<Operation<'_>>>>>(text) {
            return Self::collect(call, batch.operations, |Object(operation)| check(operation, defaults));
        }
        let batch: BatchBody<&RawValue> = parse(text)?;
        Self::collect(call, batch.operations, |operation| {
            parse(operation.get()).and_then(|operation| check(operation, defaults))
        })
    }

    fn collect<O>(
        call: &Call,
        operations: Vec<O>,
        check: impl Fn(O) -> Result<Action, Problem>,
    ) -> Result<Self, Problem> {
        let count = operations.len();
        if !(1..=MAX_BATCH_OPERATIONS).contains(&count) {
            let problem = format!("must be 1 to {MAX_BATCH_OPERATIONS}");
            return Err(InvalidField::new("operations", problem).into());
        }
        let mut checked = Self {
            commands: Vec::with_capacity(count),
            reserves: Vec::with_capacity(count),
            refused: Vec::new(),
        };
        for (place, operation) in operations.into_iter().enumerate() {
            match check(operation) {
                Ok(action) => {
                    checked.reserves.push(matches!(action, Action::Reserve(_)));
                    checked.commands.push(call.command(action));
                }
                Err(problem) => checked.refused.push((place, problem)),
            }
        }
        Ok(checked)
    }
}

fn check(operation: Operation<'_>, defaults: &Defaults) -> Result<Action, Problem> {
    operation.action(defaults).map_err(|error| match error {
        OperationError::InvalidField(error) => error.into(),
        OperationError::UnknownField { op, field } => {
            Problem::malformed(format!("unknown field `{field}` of {op}"), Some(field.to_owned()))
        }
    })
}

/// Writes the results: those of the engine, with the refused ones at their places.
fn write(call: &Call, outcomes: Vec<Outcome>, reserves: &[bool], refused: Vec<(usize, Problem)>) -> Vec<u8> {
    /// The result of an order of one line has about 330 bytes.
    const USUAL_BYTES: usize = 384;
    let count = outcomes.len() + refused.len();
    let mut json = Vec::with_capacity(count * USUAL_BYTES);
    json.extend_from_slice(b"{\"results\":[");
    let mut writer = ResultWriter { app: &call.app, trace: call.trace, json };
    let mut refused = refused.into_iter().peekable();
    let mut outcomes = outcomes.into_iter().zip(reserves);
    for place in 0..count {
        if let Some((_, problem)) = refused.next_if(|(refused_place, _)| *refused_place == place) {
            writer.problem(&problem);
        } else if let Some((outcome, is_reserve)) = outcomes.next() {
            match outcome {
                Ok(answer) => writer.answer(&answer, *is_reserve),
                Err(refusal) => writer.problem(&Problem::from(refusal)),
            }
        }
    }
    let mut json = writer.json;
    // The comma after the last result; there is at least one.
    json.pop();
    json.extend_from_slice(b"]}");
    json
}

struct ResultWriter<'a> {
    app: &'a App,
    trace: Option<hotstock_engine::ids::TraceId>,
    json: Vec<u8>,
}

impl ResultWriter<'_> {
    fn answer(&mut self, answer: &Answer, is_reserve: bool) {
        let status = if is_reserve && created(answer) { StatusCode::CREATED } else { StatusCode::OK };
        self.result(&ResultBody { status: status.as_u16(), body: AnyBody::of(answer) });
    }

    fn problem(&mut self, problem: &Problem) {
        self.app.metrics.problem(problem.code);
        // One trace for all problems of the batch.
        let trace = *self.trace.get_or_insert_with(trace::fresh);
        let status = problem.code.info().status;
        self.result(&ResultBody { status, body: AnyBody::Problem(problem.body(trace)) });
    }

    fn result(&mut self, result: &ResultBody<'_>) {
        serde_json::to_writer(&mut self.json, result).expect("text and numbers can always be written");
        self.json.push(b',');
    }
}
