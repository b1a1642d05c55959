//! A condition, compiled once.

use cel::{Context, Env, ExecutionError, Program, Value};

use crate::{Problem, check, parse::MAX_EXPRESSION_BYTES, shape};

/// A condition that names known facts only and whose types fit.
pub(crate) struct Expression {
    program: Program,
}

impl Expression {
    /// Compiles `source`. An error says where in `source` it stands, in characters from its start.
    pub(crate) fn compile(env: &Env, source: &str) -> Result<Self, (usize, Problem)> {
        if source.len() > MAX_EXPRESSION_BYTES {
            return Err((0, Problem::ExpressionSize(source.len())));
        }
        if source.trim().is_empty() {
            return Err((0, Problem::Syntax("it is empty; write `true` to match every study".into())));
        }
        shape::check(source)?;
        let program = env.compile(source).map_err(|errors| {
            let Some(first) = errors.errors.first() else {
                return (0, Problem::Syntax("it cannot be parsed".into()));
            };
            (offset(source, first.pos), Problem::Syntax(first.msg.clone()))
        })?;
        check::condition(program.expression()).map_err(|flaw| {
            let start = program.source_info().offset_for(flaw.node).map_or(0, |(start, _)| start);
            // CEL counts the bytes before a node.
            let before =
                usize::try_from(start).ok().and_then(|start| source.get(..start)).unwrap_or_default();
            (before.chars().count(), flaw.problem)
        })?;
        Ok(Self { program })
    }

    /// Whether the condition holds. The error says why that could not be told; it never repeats a fact's value,
    /// because a study description may hold a patient's name.
    pub(crate) fn holds(&self, context: &Context<'_, '_>) -> Result<bool, String> {
        match self.program.execute(context) {
            Ok(Value::Bool(truth)) => Ok(truth),
            Ok(_) => Err("the condition is neither true nor false".into()),
            Err(ExecutionError::IndexOutOfBounds(_)) => {
                Err("there is nothing at that place of the list".into())
            }
            Err(ExecutionError::NoSuchOverload(error)) => Err(error.to_string()),
            Err(_) => Err("the condition cannot be evaluated for this study".into()),
        }
    }
}

/// The character offset of CEL's line and column, both from 1; the start where CEL gives no place.
fn offset(source: &str, (line, column): (isize, isize)) -> usize {
    let (Ok(line @ 1..), Ok(column @ 1..)) = (usize::try_from(line), usize::try_from(column)) else {
        return 0;
    };
    let before: usize = source.split_inclusive('\n').take(line - 1).map(|l| l.chars().count()).sum();
    before + column - 1
}
