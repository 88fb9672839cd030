//! Currencies.

use std::{fmt, str::FromStr};

/// The codes of the currencies in use, as listed by ISO 4217 in 2026: without precious metals, units of account, funds
/// and codes for tests. A macro, because the validation rules of the CRD contain the list.
#[macro_export]
macro_rules! currency_codes {
    () => {
        " AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CLP \
         CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG \
         HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL \
         MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR \
         RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD \
         TZS UAH UGX USD UYU UZS VED VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG "
    };
}

/// Those whose minor unit is the currency itself.
const WITHOUT_DECIMALS: [&str; 16] =
    ["BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "VND", "VUV", "XAF", "XOF", "XPF"];
/// Those whose minor unit is a thousandth.
const WITH_THREE_DECIMALS: [&str; 7] = ["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"];

/// The code of a currency in ISO 4217, such as `EUR`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Currency(String);

/// The text is not the code of a currency in use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown currency {0:?}, expected a code of ISO 4217 in capital letters, such as EUR")]
pub struct UnknownCurrency(String);

impl Currency {
    /// The code.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The number of decimals of an amount: 2 if its minor unit is a hundredth.
    #[must_use]
    pub fn decimals(&self) -> u8 {
        match self.as_str() {
            code if WITHOUT_DECIMALS.contains(&code) => 0,
            code if WITH_THREE_DECIMALS.contains(&code) => 3,
            _ => 2,
        }
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Currency {
    type Err = UnknownCurrency;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let is_known = currency_codes!().split_whitespace().any(|code| code == s);
        if is_known { Ok(Self(s.to_owned())) } else { Err(UnknownCurrency(s.to_owned())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn currency_is_a_code_in_use() {
        for code in ["EUR", "KRW", "USD", "XAF", "ZWG"] {
            assert_eq!(code.parse::<Currency>().unwrap().as_str(), code);
        }
        for unknown in ["", "eur", "EURO", "DEM", "XXX", "XAU", " EUR", "R U", "EUR FJD"] {
            assert_eq!(unknown.parse::<Currency>(), Err(UnknownCurrency(unknown.to_owned())));
        }
    }

    #[test]
    fn decimals_are_those_of_iso_4217() {
        for (code, decimals) in [("EUR", 2), ("RSD", 2), ("MGA", 2), ("KRW", 0), ("JPY", 0), ("KWD", 3)] {
            assert_eq!(code.parse::<Currency>().unwrap().decimals(), decimals, "{code}");
        }
        for code in WITHOUT_DECIMALS.iter().chain(&WITH_THREE_DECIMALS) {
            assert!(code.parse::<Currency>().is_ok(), "{code}");
        }
    }

    #[test]
    fn codes_are_sorted_and_have_three_letters() {
        let codes: Vec<_> = currency_codes!().split_whitespace().collect();
        assert!(codes.is_sorted_by(|one, next| one < next));
        assert!(codes.iter().all(|code| code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_uppercase())));
    }
}
