//! Tensors by their names, and rows and columns of them as Python writes them: `layers.0.weight[0:16, :]`.

use super::ComponentError;
use crate::parameters::cells::{Cells, Intervals};
use crate::parameters::{Chosen, Parameter, ParameterLayout};

/// The coordinates of the tensor of a name, of those of a module, or of a slice of a tensor; none for a name that the layout does not have.
pub(super) fn of_tensor(layout: &ParameterLayout, text: &str) -> Result<Option<Chosen>, ComponentError> {
    let Some((name, rest)) = text.split_once('[') else {
        let is_meant = |name: &str| name.strip_prefix(text).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        let chosen = Chosen::of_names(layout, is_meant);
        return Ok((chosen.count() > 0).then_some(chosen));
    };
    let name = name.trim();
    let fault = |problem: String| ComponentError::Slice { name: text.to_owned(), problem };
    let Some(number) = layout.parameters().iter().position(|parameter| parameter.name == name) else {
        let near = layout.parameters().iter().find(|parameter| parameter.name.starts_with(name));
        let names = near.or(layout.parameters().first()).map_or_else(String::new, |parameter| parameter.name.clone());
        return Err(fault(format!("the model has no tensor {name}, its tensors have names like {names}")));
    };
    let parameter = &layout.parameters()[number];
    let Some(inside) = rest.trim().strip_suffix(']') else { return Err(fault("a `]` is missing at the end".to_owned())) };
    let cells = cells(parameter, inside).map_err(fault)?;
    let mut chosen = Chosen::default();
    chosen.add(number, cells);
    Ok(Some(chosen))
}

/// The elements of a tensor that a subscript means. Axes behind the second are taken whole.
fn cells(parameter: &Parameter, subscript: &str) -> Result<Cells, String> {
    let parts: Vec<&str> = subscript.split(',').collect();
    let shape = &parameter.shape;
    if parts.len() > shape.len() {
        return Err(format!("it has {} axes and the tensor {}, of shape {shape:?}", parts.len(), shape.len()));
    }
    if let Some(deep) = parts.iter().skip(2).find(|part| part.trim() != ":") {
        return Err(format!("`{}` cuts an axis behind the second, which is taken whole: write `:`", deep.trim()));
    }
    let axis = |number: usize| parts.get(number).map_or_else(|| Ok((0..shape[number]).into()), |part| along(part, shape[number], number));
    let rows = axis(0)?;
    if shape.len() < 2 {
        return Ok(Cells::block(&rows, &(0..1).into()));
    }
    let rest: usize = shape[2..].iter().product();
    let columns = axis(1)?;
    let columns = Intervals::new(columns.ranges().iter().map(|range| range.start * rest..range.end * rest));
    Ok(Cells::block(&rows, &columns))
}

/// The numbers along one axis: `3`, `0:16`, `:4`, `-2:`, `:`, and several joined by `+`.
fn along(text: &str, size: usize, axis: usize) -> Result<Intervals, String> {
    let mut ranges = Vec::new();
    for text in text.split('+').map(str::trim) {
        let place = |text: &str, default: usize| -> Result<usize, String> {
            let text = text.trim();
            if text.is_empty() {
                return Ok(default);
            }
            let number: i64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
            let found = if number < 0 { number + size as i64 } else { number };
            usize::try_from(found)
                .ok()
                .filter(|&found| found <= size)
                .ok_or_else(|| format!("{number} is outside of axis {axis}, which has {size} entries"))
        };
        let range = match text.split_once(':') {
            Some((_, end)) if end.contains(':') => return Err(format!("`{text}` has a step, and slices have none: write begin:end")),
            Some((start, end)) => place(start, 0)?..place(end, size)?,
            None if text.is_empty() => return Err("a number or a range is missing between the brackets".to_owned()),
            None => {
                let start = place(text, 0)?;
                if start == size {
                    return Err(format!("{text} is outside of axis {axis}, which has {size} entries"));
                }
                start..start + 1
            }
        };
        if range.start >= range.end {
            return Err(format!("`{text}` is empty"));
        }
        ranges.push(range);
    }
    Ok(Intervals::new(ranges))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> ParameterLayout {
        ParameterLayout::new([("l.w", vec![4, 6]), ("l.b", vec![4]), ("k", vec![2, 3, 2, 2])].map(|(n, s)| (n.to_owned(), s)))
    }

    #[test]
    fn slices_mean_what_they_mean_in_python() {
        for (text, count) in [
            ("l.w[0:2, :]", 12),
            ("l.w[0:2]", 12),
            ("l.w[:, 1]", 4),
            ("l.w[-1, -2:]", 2),
            ("l.w[0:1+2:4, :3]", 9),
            ("l.b[1:3]", 2),
            ("k[1]", 12),
            ("k[:, 1:3, :, :]", 16),
            ("l.w", 24),
            ("l", 28),
        ] {
            assert_eq!(of_tensor(&layout(), text).unwrap().unwrap().count(), count, "{text}");
        }
        assert_eq!(of_tensor(&layout(), "l.w[:, 1]").unwrap().unwrap(), of_tensor(&layout(), "l.w[0:4, 1:2]").unwrap().unwrap());
        assert_eq!(of_tensor(&layout(), "other").unwrap(), None);
    }

    #[test]
    fn bad_slices_are_refused_in_a_sentence() {
        for (text, expected) in [
            ("l.x[0]", "the model has no tensor l.x, its tensors have names like l.w"),
            ("l.w[0", "a `]` is missing"),
            ("l.w[]", "is missing between the brackets"),
            ("l.w[4, :]", "4 is outside of axis 0, which has 4 entries"),
            ("l.w[:, 0:9]", "9 is outside of axis 1, which has 6 entries"),
            ("l.w[2:2]", "`2:2` is empty"),
            ("l.w[0:4:2]", "has a step"),
            ("l.w[a]", "`a` is no number"),
            ("l.b[0, 1]", "it has 2 axes and the tensor 1"),
            ("k[0, 0, 1:2]", "behind the second"),
        ] {
            let message = of_tensor(&layout(), text).unwrap_err().to_string();
            assert!(message.contains(expected) && message.starts_with(&format!("`{text}`")), "{message}");
        }
    }
}
