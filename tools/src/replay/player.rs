//! Plays one document after the other, in time order, and keeps the books of what it was answered.
//!
//! **A second replay of the same file changes nothing.** Order numbers and request ids come from the file, so the
//! server knows every one again. What was *refused* needs more, because stock that came back since could make the
//! second answer another one:
//! - a refused order is released at once: that leaves a tombstone, and its number is refused for good
//!   (`order_cancelled`);
//! - a refused correction leaves the same tombstone under its own number, which is looked for before it is sent.

use std::collections::HashSet;
use std::sync::Arc;

use hotstock_engine::ids::SkuId;

pub use super::books::Tally;
use super::books::{Books, Happened};
use super::file::{Document, Kind};
use super::ledger::Ledger;
use super::orders::{Orders, wrong_refusal};
use crate::client::{Connection, segment};
use crate::failure::Failure;
use crate::wire;

/// An invoice is paid at once; a hold only outlives a replay that was broken off. As long as the contract allows, so
/// that it can be taken up again.
const TTL_SECONDS: u32 = 604_800;

/// One caller of a replay: its connection, and what it knows from the answers so far.
pub struct Player {
    connection: Connection,
    ledger: Ledger,
    /// SKUs of which there is enough for everybody.
    plenty: Arc<HashSet<SkuId>>,
    /// What this caller did to the stock of the server.
    pub books: Books,
    /// What the orders of this caller must be.
    pub orders: Orders,
    /// How often what happened.
    pub tally: Tally,
}

impl Player {
    /// A player that has done nothing yet.
    pub fn new(connection: Connection, plenty: Arc<HashSet<SkuId>>) -> Self {
        let (ledger, books) = (Ledger::default(), Books::default());
        Self { connection, ledger, plenty, books, orders: Orders::default(), tally: Tally::default() }
    }

    /// Plays one document.
    ///
    /// # Errors
    /// [`Failure`] when the server can't be reached or answers what the rules don't foresee.
    pub async fn play(&mut self, document: &Document) -> Result<(), Failure> {
        match document.kind {
            Kind::Sale => self.sale(document).await,
            Kind::Cancellation => self.cancellation(document).await,
            Kind::Correction => self.correction(document).await,
        }
    }

    /// An order that is paid at once, or refused and closed.
    async fn sale(&mut self, document: &Document) -> Result<(), Failure> {
        let number = &document.number;
        let lines = lines(&document.lines);
        let buyer_id = document.customer.as_ref().map(|customer| customer.as_str());
        let body = wire::json(&wire::Reserve {
            order_no: number,
            lines: &lines,
            ttl_seconds: TTL_SECONDS,
            buyer_id,
        });
        let status = self.connection.call_until_known("POST", "/v1/reservations", &body).await?;
        let units = document.lines.iter().map(|(_, units)| units).sum();
        let sold = match (status, self.code()) {
            (200 | 201, _) => true,
            (409, Some(code)) if code == "insufficient_stock" || code == "order_cancelled" => {
                if code == "insufficient_stock" {
                    let short = self.connection.json::<wire::Problem>()?.lines;
                    let wrong = wrong_refusal(&document.lines, &short, |sku_id| self.plenty.contains(sku_id));
                    if let Some(wrong) = wrong {
                        return Err(Failure::Audit(format!(
                            "the refusal of order {number} can't be right: {wrong}"
                        )));
                    }
                }
                self.close(number).await?;
                self.orders.refused(number);
                self.tally.count(Happened::Refused, units, code == "order_cancelled");
                false
            }
            _ => return Err(self.unexpected("reserving", number, status)),
        };
        if sold {
            let status = wire::change_order(&mut self.connection, number, "confirm", b"{}").await?;
            if status != 200 {
                return Err(self.unexpected("confirming", number, status));
            }
            let known = self.connection.json::<wire::Order>()?.replayed;
            self.tally.count(Happened::Sold, units, known);
            self.orders.sold(number, &document.lines);
        }
        for (sku_id, units) in &document.lines {
            self.ledger.bought(document.customer.as_ref(), sku_id, *units, number, sold);
            if sold {
                self.books.sell(sku_id, *units);
            }
        }
        Ok(())
    }

    /// Units come back, to the orders that they were sold with.
    async fn cancellation(&mut self, document: &Document) -> Result<(), Failure> {
        // The lines that come back, by the order that they come back from.
        let mut returns: Vec<(String, Vec<(SkuId, i64)>)> = Vec::new();
        for (sku_id, units) in &document.lines {
            let origin = self.ledger.cancel(document.customer.as_ref(), sku_id, *units);
            for (invoice, units) in origin.returned {
                match returns.iter_mut().find(|(known, _)| *known == invoice) {
                    Some((_, lines)) => lines.push((sku_id.clone(), units)),
                    None => returns.push((invoice, vec![(sku_id.clone(), units)])),
                }
            }
            if origin.never_sold > 0 {
                self.tally.count(Happened::NothingToReturn, origin.never_sold, true);
            }
            if origin.unmatched > 0 {
                let known = self
                    .change_stock(
                        "restock",
                        sku_id,
                        &document.number,
                        origin.unmatched,
                        "returned, sold earlier",
                    )
                    .await?
                    .ok_or_else(|| Failure::Other(format!("restocking {sku_id} was refused")))?;
                self.tally.count(Happened::Restocked, origin.unmatched, known);
            }
        }
        for (invoice, back) in returns {
            let body = wire::json(&wire::Return { request_id: &document.number, lines: &lines(&back) });
            let status = wire::change_order(&mut self.connection, &invoice, "return", &body).await?;
            if status != 200 {
                return Err(self.unexpected(&format!("returning {} to", document.number), &invoice, status));
            }
            let known = self.connection.json::<wire::Order>()?.replayed;
            self.tally.count(Happened::Returned, back.iter().map(|(_, units)| units).sum(), known);
            self.orders.returned(&invoice, &back);
            for (sku_id, units) in &back {
                self.books.sell(sku_id, -units);
            }
        }
        Ok(())
    }

    /// Units went missing, outside of any order.
    async fn correction(&mut self, document: &Document) -> Result<(), Failure> {
        for (sku_id, units) in &document.lines {
            let path = format!("/v1/reservations/{}", segment(&document.number));
            let refused_before = match self.connection.call_until_known("GET", &path, b"").await? {
                200 => true,
                404 => false,
                status => return Err(self.unexpected("looking for", &document.number, status)),
            };
            let answer = match refused_before {
                true => None,
                false => {
                    self.change_stock("adjust", sku_id, &document.number, *units, "stock correction").await?
                }
            };
            match answer {
                Some(known) => self.tally.count(Happened::Corrected, *units, known),
                None => {
                    self.close(&document.number).await?;
                    self.tally.count(Happened::NotCorrected, *units, refused_before);
                }
            }
        }
        Ok(())
    }

    /// Changes a stock: whether the server had done so before, or `None` when the units are not there.
    async fn change_stock(
        &mut self,
        how: &str,
        sku_id: &SkuId,
        request_id: &str,
        units: i64,
        reason: &str,
    ) -> Result<Option<bool>, Failure> {
        let body = wire::json(&wire::ChangeStock { request_id, quantity: units, reason });
        let path = format!("/v1/stock/{}/{how}", segment(sku_id.as_str()));
        let status = self.connection.call_until_known("POST", &path, &body).await?;
        match (status, self.code()) {
            (200, _) => {
                self.books.supply(sku_id, units);
                Ok(Some(self.connection.json::<wire::StockChanged>()?.replayed))
            }
            (409, Some(code)) if code == "insufficient_stock" => Ok(None),
            _ => Err(self.unexpected(how, request_id, status)),
        }
    }

    /// Leaves a tombstone: this number is refused from now on.
    async fn close(&mut self, number: &str) -> Result<(), Failure> {
        let body = b"{\"reason\":\"refused for want of stock\"}";
        match wire::change_order(&mut self.connection, number, "release", body).await? {
            200 => Ok(()),
            status => Err(self.unexpected("closing", number, status)),
        }
    }

    /// The code of the last answer, if it was a problem.
    fn code(&self) -> Option<String> {
        self.connection.json::<wire::Problem>().ok().map(|problem| problem.code)
    }

    fn unexpected(&self, what: &str, number: &str, status: u16) -> Failure {
        wire::unexpected(&format!("{what} {number}"), status, &self.connection)
    }
}

fn lines(lines: &[(SkuId, i64)]) -> Vec<wire::Line<'_>> {
    fn line((sku_id, units): &(SkuId, i64)) -> wire::Line<'_> {
        let quantity = u32::try_from(*units).expect("units of a line were checked when the file was read");
        wire::Line { sku_id: sku_id.as_str(), quantity }
    }
    lines.iter().map(line).collect()
}
