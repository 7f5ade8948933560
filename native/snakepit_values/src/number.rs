/// A JSON number, as the smallest type that holds it exactly.
pub(crate) enum Number<'a> {
    Int(i64),
    /// The digits, with a sign, of an integer that 64 bits do not hold.
    Big(&'a str),
    Float(f64),
}

/// The digits of a number. If they are few, as usual, the number is computed without reading them again.
#[derive(Default)]
pub(crate) struct Decimal {
    digits: u64,
    count: usize,
    /// The number of digits after the point.
    pub(crate) fraction: usize,
    pub(crate) has_exponent: bool,
}

/// This many digits always fit in 64 bits.
const FEW_DIGITS: usize = 19;
/// The powers of ten that floats represent exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

impl Decimal {
    /// Adds the digits at the start of `bytes`; returns their number.
    pub(crate) fn extend(&mut self, bytes: &[u8]) -> usize {
        let mut digits = self.digits;
        let mut count = 0;
        for byte in bytes {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                break;
            }
            digits = digits.wrapping_mul(10).wrapping_add(digit.into());
            count += 1;
        }
        self.digits = digits;
        self.count += count;
        count
    }

    pub(crate) fn int(&self, negative: bool) -> Option<i64> {
        if self.count > FEW_DIGITS {
            return None;
        }
        if negative {
            0i64.checked_sub_unsigned(self.digits)
        } else {
            self.digits.try_into().ok()
        }
    }

    /// The division of two exact floats gives the nearest float.
    pub(crate) fn float(&self, negative: bool) -> Option<f64> {
        const MOST: u64 = 1 << f64::MANTISSA_DIGITS;
        if self.has_exponent || self.count > FEW_DIGITS || self.digits > MOST {
            return None;
        }
        let float = self.digits as f64 / POWERS[self.fraction];
        Some(if negative { -float } else { float })
    }
}
