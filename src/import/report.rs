//! What a person has to know of an import: nothing is dropped in silence.

use std::fmt;

use super::text::Place;

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    notes: Vec<Note>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Note {
    place: Place,
    says: String,
    why: String,
    todo: String,
    left_out: bool,
}

impl Report {
    /// Something could not be carried over.
    pub fn left_out(&mut self, place: &Place, says: &str, why: &str, todo: &str) {
        self.add(place, says, why, todo, true);
    }

    /// Something was carried over, and something is left to do.
    pub fn note(&mut self, place: &Place, says: &str, why: &str, todo: &str) {
        self.add(place, says, why, todo, false);
    }

    fn add(&mut self, place: &Place, says: &str, why: &str, todo: &str, left_out: bool) {
        let [says, why, todo] = [says, why, todo]
            .map(|text| text.escape_debug().to_string().replace("\\'", "'").replace("\\\"", "\""));
        let note = Note { place: place.clone(), says, why, todo, left_out };
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Whether everything was carried over.
    pub fn complete(&self) -> bool {
        self.notes.iter().all(|note| !note.left_out)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut notes: Vec<&Note> = self.notes.iter().collect();
        notes.sort();
        for Note { place, says, why, todo, left_out } in notes {
            let weight = if *left_out { "left out" } else { "note" };
            writeln!(f, "{}:{}: {weight}: {says}: {why}; {todo}", place.file.display(), place.line)?;
        }
        Ok(())
    }
}
