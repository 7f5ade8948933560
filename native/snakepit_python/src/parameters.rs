//! The parameters of a command, as far as they can be checked without Python code.
//!
//! Most calls pass arguments that need no conversion. To find that out by a call of `Parameters.bind` took 3,700 of
//! the 33,000 instructions of a small call.

use pyo3::{
    FromPyObject,
    prelude::*,
    types::{PyDict, PyFrozenSet, PyString},
};
use snakepit_proto::Field;

#[derive(FromPyObject)]
struct Described<'py>(Vec<DescribedParameter<'py>>, bool);

#[derive(FromPyObject)]
struct DescribedParameter<'py>(String, bool, Option<Bound<'py, PyFrozenSet>>);

struct Parameter {
    name: String,
    key: Py<PyString>,
    required: bool,
    /// The types of values that are passed as they are. None: all.
    types: Option<Vec<Py<PyAny>>>,
}

pub(crate) struct Parameters {
    all: Vec<Parameter>,
    required: usize,
    /// Whether arguments of other names are taken, of any type.
    takes_others: bool,
}

impl Parameters {
    /// Whether these arguments, which came as `fields`, are passed as they are. If not, `Parameters.bind` in Python
    /// converts them, or raises why they are invalid.
    pub(crate) fn accept(&self, args: &Bound<'_, PyDict>, fields: &[Field]) -> bool {
        let mut required = 0;
        for field in fields {
            let named = |one: &&Parameter| one.name.as_bytes() == &field.key[..];
            match self.all.iter().find(named) {
                Some(parameter) if parameter.accepts(args) => {
                    required += usize::from(parameter.required);
                }
                None if self.takes_others => {}
                _ => return false,
            }
        }
        required == self.required
    }
}

impl Parameter {
    fn accepts(&self, args: &Bound<'_, PyDict>) -> bool {
        let Some(types) = &self.types else {
            return true;
        };
        let Ok(Some(value)) = args.get_item(self.key.bind(args.py())) else {
            return false;
        };
        let kind = value.get_type();
        types.iter().any(|one| one.is(&kind))
    }
}

impl<'py> FromPyObject<'_, 'py> for Parameters {
    type Error = PyErr;

    fn extract(described: pyo3::Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let Described(parameters, takes_others) = described.extract()?;
        let mut all = Vec::new();
        for DescribedParameter(name, required, types) in parameters {
            let types = types.map(|types| types.iter().map(Bound::unbind).collect());
            all.push(Parameter {
                key: PyString::intern(described.py(), &name).unbind(),
                name,
                required,
                types,
            });
        }
        Ok(Self {
            required: all.iter().filter(|one| one.required).count(),
            all,
            takes_others,
        })
    }
}
