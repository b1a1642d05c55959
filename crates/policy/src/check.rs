//! Names and types of a condition, checked before it is ever evaluated.
//!
//! CEL finds a misspelt name or a comparison of text with a list only when it evaluates, and then the rule silently
//! never matches. A condition here is a small part of CEL in which both are found when the policy is loaded, and in
//! which the work is bounded by the size of the text: no arithmetic, no regular expressions, no loop inside a loop.

use cel::{
    IdedExpr,
    common::ast::{CallExpr, ComprehensionExpr, Expr, ListExpr, LiteralValue, operators},
};

use crate::{FACT_NAMES, FactKind, Problem};

/// A problem and the node of the syntax tree where it stands.
pub(crate) struct Flaw {
    pub node: u64,
    pub problem: Problem,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scalar {
    Text,
    Number,
    Truth,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    One(Scalar),
    List(Scalar),
    /// `[]`, which is a list of anything.
    EmptyList,
}

const TEXT: Type = Type::One(Scalar::Text);
const NUMBER: Type = Type::One(Scalar::Number);
const TRUTH: Type = Type::One(Scalar::Truth);

impl Type {
    const fn name(self) -> &'static str {
        match self {
            Self::One(Scalar::Text) => "text",
            Self::One(Scalar::Number) => "a number",
            Self::One(Scalar::Truth) => "true or false",
            Self::List(Scalar::Text) => "a list of texts",
            Self::List(Scalar::Number) => "a list of numbers",
            Self::List(Scalar::Truth) => "a list of true and false",
            Self::EmptyList => "an empty list",
        }
    }

    fn fits(self, other: Self) -> bool {
        self == other
            || matches!((self, other), (Self::EmptyList, Self::List(_)) | (Self::List(_), Self::EmptyList))
    }
}

const OFFERED: &str = "==, !=, <, <=, >, >=, &&, ||, !, ?:, in, [], size(), contains(), startsWith(), \
     endsWith(), exists(), all() and exists_one()";
/// What `exists`, `all` and `exists_one` call their running result; no condition can spell it.
const RESULT: &str = "@result";

/// Checks that `root` uses known names with fitting types and is true or false as a whole.
pub(crate) fn condition(root: &IdedExpr) -> Result<(), Flaw> {
    let found = Scope { bound: Vec::new() }.infer(root)?;
    expect(root, TRUTH, found, "a condition")
}

/// The variables of the loop being checked, beside the facts.
struct Scope<'a> {
    bound: Vec<(&'a str, Type)>,
}

impl<'a> Scope<'a> {
    fn infer(&mut self, node: &'a IdedExpr) -> Result<Type, Flaw> {
        match &node.expr {
            Expr::Literal(literal) => self::literal(node, literal),
            Expr::Ident(name) => self.name(node, name),
            Expr::List(list) => self.list(list),
            Expr::Call(call) => self.call(node, call),
            Expr::Comprehension(each) => self.comprehension(node, each),
            Expr::Select(select) => {
                Err(not_offered(node, &format!(".{}", select.field), "the flat names of docs/policy.md"))
            }
            Expr::Map(_) | Expr::Struct(_) => Err(not_offered(node, "{}", "lists, like ['CT', 'MR']")),
            Expr::Unspecified => {
                Err(Flaw { node: node.id, problem: Problem::Syntax("an expression is missing".into()) })
            }
        }
    }

    fn name(&self, node: &IdedExpr, name: &str) -> Result<Type, Flaw> {
        if let Some((_, kind)) = self.bound.iter().rev().find(|(bound, _)| *bound == name) {
            return Ok(*kind);
        }
        fact(name).ok_or_else(|| {
            let known = FACT_NAMES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            Flaw { node: node.id, problem: Problem::UnknownName { name: name.into(), known } }
        })
    }

    fn list(&mut self, list: &'a ListExpr) -> Result<Type, Flaw> {
        let mut elements = None;
        for element in &list.elements {
            let found = self.infer(element)?;
            let Type::One(scalar) = found else {
                return Err(mismatch(element, "a list", "texts, numbers or truths", found.name()));
            };
            match elements {
                None => elements = Some(scalar),
                Some(first) => {
                    expect(element, Type::One(first), found, "a list whose first element is this")?
                }
            }
        }
        Ok(elements.map_or(Type::EmptyList, Type::List))
    }

    fn call(&mut self, node: &'a IdedExpr, call: &'a CallExpr) -> Result<Type, Flaw> {
        let name = call.func_name.as_str();
        let mut operands = Vec::with_capacity(3);
        for operand in call.target.as_deref().into_iter().chain(&call.args) {
            operands.push((operand, self.infer(operand)?));
        }
        match (name, operands.as_slice()) {
            (operators::LOGICAL_AND | operators::LOGICAL_OR, all) => {
                for (operand, found) in all {
                    expect(operand, TRUTH, *found, "`&&` or `||`")?;
                }
                Ok(TRUTH)
            }
            (operators::LOGICAL_NOT | operators::NOT_STRICTLY_FALSE, [(operand, found)]) => {
                expect(operand, TRUTH, *found, "`!`").map(|()| TRUTH)
            }
            (operators::NEGATE, [(operand, found)]) => {
                expect(operand, NUMBER, *found, "`-`").map(|()| NUMBER)
            }
            (operators::EQUALS | operators::NOT_EQUALS, [(_, left), (right, found)]) => {
                expect(right, *left, *found, "`==` or `!=` with this on its left").map(|()| TRUTH)
            }
            (
                operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS,
                [(left, found), (right, other)],
            ) => {
                if !matches!(*found, TEXT | NUMBER) {
                    return Err(mismatch(left, "an order", "numbers or texts", found.name()));
                }
                expect(right, *found, *other, "an order with this on its left").map(|()| TRUTH)
            }
            (operators::IN, [(element, found), (list, among)]) => membership(element, *found, list, *among),
            (operators::INDEX, [(list, among), (index, found)]) => {
                let Type::List(scalar) = *among else {
                    return Err(mismatch(list, "`[]`", "a list", among.name()));
                };
                expect(index, NUMBER, *found, "the place in `[]`").map(|()| Type::One(scalar))
            }
            (operators::CONDITIONAL, [(test, truth), (_, yes), (other, no)]) => {
                expect(test, TRUTH, *truth, "the question before `?`")?;
                expect(other, *yes, *no, "`:` with this before it").map(|()| *yes)
            }
            // Only exists_one() adds, to its own count; arithmetic of the text's own is refused below.
            (operators::ADD, [(count, NUMBER), (_, NUMBER)]) if is_result(count) => Ok(NUMBER),
            ("size", [(_, TEXT | Type::List(_) | Type::EmptyList)]) => Ok(NUMBER),
            ("contains" | "startsWith" | "endsWith", [(receiver, whole), (part, found)])
                if call.target.is_some() =>
            {
                expect(receiver, TEXT, *whole, name)?;
                expect(part, TEXT, *found, name).map(|()| TRUTH)
            }
            ("size", [(operand, found)]) => Err(mismatch(operand, "size()", "text or a list", found.name())),
            ("matches", _) => Err(not_offered(node, "matches()", "startsWith(), endsWith() or contains()")),
            _ => Err(not_offered(node, name.trim_matches('_'), OFFERED)),
        }
    }

    /// `exists`, `all` and `exists_one`, which CEL writes out as a loop over a list with a running result.
    fn comprehension(&mut self, node: &'a IdedExpr, each: &'a ComprehensionExpr) -> Result<Type, Flaw> {
        if !self.bound.is_empty() {
            return Err(not_offered(node, "a loop inside a loop", "a rule of its own"));
        }
        if fact(&each.iter_var).is_some() {
            return Err(not_offered(
                node,
                &format!("{} as a variable", each.iter_var),
                "a variable that is no fact's name",
            ));
        }
        let result = match &each.accu_init.expr {
            Expr::Literal(LiteralValue::Boolean(_)) => TRUTH,
            Expr::Literal(LiteralValue::Int(_)) => NUMBER,
            _ => return Err(not_offered(node, "map() or filter()", "exists(), all() or exists_one()")),
        };
        // A range that is itself a loop is checked with a variable bound, so that it is refused like any other.
        self.bound.push((RESULT, result));
        let element = match self.infer(&each.iter_range)? {
            Type::List(scalar) => Type::One(scalar),
            Type::EmptyList => TEXT,
            other => return Err(mismatch(&each.iter_range, "a loop", "a list", other.name())),
        };
        self.bound.push((&each.iter_var, element));
        self.infer(&each.loop_cond)?;
        let step = self.infer(&each.loop_step)?;
        expect(&each.loop_step, result, step, "a loop")?;
        let whole = self.infer(&each.result)?;
        self.bound.clear();
        Ok(whole)
    }
}

fn is_result(node: &IdedExpr) -> bool {
    matches!(&node.expr, Expr::Ident(name) if name == RESULT)
}

fn fact(name: &str) -> Option<Type> {
    let (_, kind) = FACT_NAMES.iter().find(|(known, _)| *known == name)?;
    Some(match kind {
        FactKind::Text => TEXT,
        FactKind::Texts => Type::List(Scalar::Text),
        FactKind::Number => NUMBER,
        FactKind::Truth => TRUTH,
    })
}

fn literal(node: &IdedExpr, literal: &LiteralValue) -> Result<Type, Flaw> {
    match literal {
        LiteralValue::Boolean(_) => Ok(TRUTH),
        LiteralValue::Int(_) => Ok(NUMBER),
        LiteralValue::String(_) => Ok(TEXT),
        LiteralValue::Double(_) => Err(not_offered(node, "a decimal number", "a whole number")),
        LiteralValue::UInt(_) => Err(not_offered(node, "a number with `u`", "the number alone")),
        LiteralValue::Bytes(_) => Err(not_offered(node, "a text with `b`", "the text alone")),
        LiteralValue::Null => Err(not_offered(node, "null", "'' or 0, which absent facts are")),
    }
}

fn membership(element: &IdedExpr, found: Type, list: &IdedExpr, among: Type) -> Result<Type, Flaw> {
    match among {
        Type::List(scalar) => expect(element, Type::One(scalar), found, "`in` such a list").map(|()| TRUTH),
        Type::EmptyList => Ok(TRUTH),
        Type::One(_) => Err(mismatch(list, "`in`", "a list on its right", among.name())),
    }
}

fn expect(node: &IdedExpr, wanted: Type, found: Type, what: &str) -> Result<(), Flaw> {
    if wanted.fits(found) { Ok(()) } else { Err(mismatch(node, what, wanted.name(), found.name())) }
}

fn mismatch(node: &IdedExpr, what: &str, needs: &'static str, found: &str) -> Flaw {
    Flaw { node: node.id, problem: Problem::Type { what: what.into(), needs, found: found.into() } }
}

fn not_offered(node: &IdedExpr, name: &str, instead: &'static str) -> Flaw {
    Flaw { node: node.id, problem: Problem::UnknownFunction { name: name.into(), instead } }
}
