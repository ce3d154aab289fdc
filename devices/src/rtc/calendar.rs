//! Seconds since 1970 to a calendar date and back, in the proleptic Gregorian calendar.
//!
//! Years are counted from 1 March, so that the leap day is the last of its year and the months before it have a
//! regular pattern of lengths (153 days per five months).

const SECONDS_PER_DAY: i64 = 86_400;
const DAYS_PER_ERA: i64 = 146_097;
/// Days from 1 March 0000 to 1 January 1970.
const EPOCH: i64 = 719_468;
/// First second of the year 0.
const FIRST: i64 = -62_167_219_200;
/// Last second of the year 9999.
const LAST: i64 = 253_402_300_799;

/// A point in time, as the clock's registers hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Date {
    pub(super) year: i64,
    pub(super) month: i64,
    pub(super) day: i64,
    /// 1 = Sunday, to 7.
    pub(super) weekday: i64,
    pub(super) hour: i64,
    pub(super) minute: i64,
    pub(super) second: i64,
}

impl Date {
    /// The date `seconds` after 1 January 1970, held within the years 0 to 9999.
    pub(super) fn from_unix(seconds: i64) -> Date {
        let seconds = seconds.clamp(FIRST, LAST);
        let (days, of_day) = (seconds.div_euclid(SECONDS_PER_DAY), seconds.rem_euclid(SECONDS_PER_DAY));
        let march_days = days + EPOCH;
        let (era, of_era) = (march_days.div_euclid(DAYS_PER_ERA), march_days.rem_euclid(DAYS_PER_ERA));
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * of_year + 2) / 153;
        let (month, next_year) = if march_month < 10 { (march_month + 3, 0) } else { (march_month - 9, 1) };
        Date {
            year: era * 400 + year_of_era + next_year,
            month,
            day: of_year - (153 * march_month + 2) / 5 + 1,
            // 1 January 1970 was a Thursday.
            weekday: (days + 4).rem_euclid(7) + 1,
            hour: of_day / 3600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
        }
    }

    /// Seconds since 1 January 1970. Fields out of range are moved into it first; a day beyond its month's end is
    /// counted on from there. The weekday plays no part.
    pub(super) fn to_unix(self) -> i64 {
        let (year, month, day) = (self.year.clamp(0, 9999), self.month.clamp(1, 12), self.day.clamp(1, 31));
        let (march_year, march_month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let (era, year_of_era) = (march_year.div_euclid(400), march_year.rem_euclid(400));
        let of_year = (153 * march_month + 2) / 5 + day - 1;
        let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
        let days = era * DAYS_PER_ERA + of_era - EPOCH;
        let time = self.hour.clamp(0, 23) * 3600 + self.minute.clamp(0, 59) * 60 + self.second.clamp(0, 59);
        days * SECONDS_PER_DAY + time
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_dates() {
        let date = |year, month, day, weekday, hour, minute, second| Date {
            year,
            month,
            day,
            weekday,
            hour,
            minute,
            second,
        };
        for (unix, expected) in [
            (0, date(1970, 1, 1, 5, 0, 0, 0)),
            (951_782_400, date(2000, 2, 29, 3, 0, 0, 0)),
            (1_234_567_890, date(2009, 2, 13, 6, 23, 31, 30)),
            (4_107_542_399, date(2100, 2, 28, 1, 23, 59, 59)),
            (4_107_542_400, date(2100, 3, 1, 2, 0, 0, 0)),
            (FIRST, date(0, 1, 1, 7, 0, 0, 0)),
            (LAST, date(9999, 12, 31, 6, 23, 59, 59)),
        ] {
            assert_eq!(Date::from_unix(unix), expected);
            assert_eq!(expected.to_unix(), unix);
        }
    }

    proptest! {
        #[test]
        fn there_and_back(unix in FIRST..=LAST) {
            prop_assert_eq!(Date::from_unix(unix).to_unix(), unix);
        }

        #[test]
        fn any_second_is_a_date(unix: i64) {
            prop_assert_eq!(Date::from_unix(unix).to_unix(), unix.clamp(FIRST, LAST));
        }
    }
}
