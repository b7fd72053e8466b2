//! Reads a CSV file of invoices and makes of it, in time order, what a shop would ask a stock engine.
//!
//! An invoice is one order wherever its rows stand: it happened when its first row did, and its rows of one SKU are
//! summed. Rows and invoices that make no sense are named and left out; the rest goes on. The file is held in memory.

use std::collections::HashMap;
use std::path::Path;

use hotstock_engine::ids::{BuyerId, OrderNo, SkuId};
use hotstock_engine::limits::{MAX_LINE_QUANTITY, MAX_ORDER_LINES};

use crate::failure::Failure;

/// The longest invoice number: an order number has 64 bytes, and order numbers and request ids are made of it with a
/// suffix.
const MAX_INVOICE_BYTES: usize = OrderNo::MAX_BYTES - 12;

const COLUMNS: [&str; 4] = ["invoice_no", "stock_code", "quantity", "customer_id"];

/// What a file asks for.
#[derive(Debug, Default)]
pub struct OrderFile {
    /// What happened in the shop, in time order.
    pub documents: Vec<Document>,
    /// What was left out: where it stands in the file, and why.
    pub left_out: Vec<String>,
    /// Rows read, those left out among them.
    pub rows: usize,
}

/// One thing that happened in the shop: an order, a return, a correction.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Its number, which is the invoice's; a correction has its row in the file behind it.
    pub number: String,
    /// The customer, where the file names one.
    pub customer: Option<BuyerId>,
    /// What happened.
    pub kind: Kind,
    /// How much of what, each SKU once, in the order of the file. Never 0; positive but for corrections.
    pub lines: Vec<(SkuId, i64)>,
}

/// What happened with the units of a [`Document`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An order, paid at once.
    Sale,
    /// Units sold earlier come back.
    Cancellation,
    /// Units went missing.
    Correction,
}

/// A row that made sense.
struct Row {
    invoice: String,
    sku_id: SkuId,
    quantity: i64,
    customer: Option<BuyerId>,
}

/// Reads a file of orders.
///
/// # Errors
/// [`Failure`] when it can't be read at all, or lacks a column.
pub fn read(path: &Path) -> Result<OrderFile, Failure> {
    let tried = format!("reading {}", path.display());
    let file = std::fs::File::open(path).map_err(|error| Failure::other(&tried, error))?;
    parse(file).map_err(|problem| Failure::Other(format!("{tried}: {problem}")))
}

fn parse(source: impl std::io::Read) -> Result<OrderFile, String> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(source);
    let header = reader.byte_headers().map_err(|error| error.to_string())?.clone();
    let index_of = |column: &str| {
        // Excel begins its files with a byte order mark.
        let name =
            |field: &[u8]| String::from_utf8_lossy(field).trim_start_matches('\u{feff}').trim().to_owned();
        let index = header.iter().position(|field| name(field) == column);
        index.ok_or_else(|| format!("there is no column `{column}` in its first line"))
    };
    let mut columns = [0; COLUMNS.len()];
    for (index, column) in columns.iter_mut().zip(COLUMNS) {
        *index = index_of(column)?;
    }

    let mut file = OrderFile::default();
    let mut index_of_invoice: HashMap<String, usize> = HashMap::new();
    let mut record = csv::ByteRecord::new();
    loop {
        match reader.read_byte_record(&mut record) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => return Err(error.to_string()),
        }
        file.rows += 1;
        match row(&record, columns) {
            Ok(row) => file.add(row, &mut index_of_invoice),
            Err(reason) => {
                let line = record.position().map_or(0, csv::Position::line);
                file.left_out.push(format!("line {line}: {reason}"));
            }
        }
    }
    file.leave_out_what_is_too_large();
    Ok(file)
}

/// Reads a row, whose columns stand at these indexes; why it makes no sense, if it does not.
fn row(record: &csv::ByteRecord, columns: [usize; COLUMNS.len()]) -> Result<Row, String> {
    let field = |index: usize| {
        let column = COLUMNS[index];
        let bytes = record.get(columns[index]).ok_or_else(|| format!("it has no {column}"))?;
        std::str::from_utf8(bytes).map_err(|_| format!("its {column} is not UTF-8"))
    };
    let invoice = field(0)?;
    if invoice.len() > MAX_INVOICE_BYTES || OrderNo::new(invoice).is_err() {
        return Err(format!("its invoice_no must be 1 to {MAX_INVOICE_BYTES} bytes of text"));
    }
    let sku_id =
        SkuId::new(field(1)?).map_err(|error| error.to_string().replace("sku_id", "its stock_code"))?;
    let text = field(2)?.trim();
    let quantity: i64 = text.parse().map_err(|_| format!("its quantity {text:?} is not a whole number"))?;
    if quantity == 0 || quantity.unsigned_abs() > u64::from(MAX_LINE_QUANTITY) {
        return Err(format!("its quantity {quantity} is 0 or beyond {MAX_LINE_QUANTITY}"));
    }
    if invoice.starts_with('C') && quantity > 0 {
        return Err(format!("it belongs to a cancellation, but its quantity {quantity} is positive"));
    }
    let customer = match field(3)?.trim() {
        "" => None,
        text => Some(
            BuyerId::new(text).map_err(|error| error.to_string().replace("buyer_id", "its customer_id"))?,
        ),
    };
    Ok(Row { invoice: invoice.to_owned(), sku_id, quantity, customer })
}

impl OrderFile {
    fn add(&mut self, row: Row, index_of_invoice: &mut HashMap<String, usize>) {
        let Row { invoice, sku_id, quantity, customer } = row;
        let kind = match (invoice.starts_with('C'), quantity > 0) {
            (true, _) => Kind::Cancellation,
            (false, true) => Kind::Sale,
            (false, false) => {
                // Each correction stands for itself; its row in the file tells it from others of its invoice.
                let number = format!("{invoice}#{}", self.rows);
                let lines = vec![(sku_id, quantity)];
                self.documents.push(Document { number, customer, kind: Kind::Correction, lines });
                return;
            }
        };
        let index = *index_of_invoice.entry(invoice).or_insert_with_key(|invoice| {
            let number = invoice.clone();
            self.documents.push(Document { number, customer: None, kind, lines: Vec::new() });
            self.documents.len() - 1
        });
        let document = &mut self.documents[index];
        document.customer = document.customer.take().or(customer);
        let units = quantity.abs();
        match document.lines.iter().position(|(sku, _)| *sku == sku_id) {
            Some(line) => document.lines[line].1 += units,
            // One line over the limit is enough to know that it will be left out, and keeps this search short.
            None if document.lines.len() > MAX_ORDER_LINES => {}
            None => document.lines.push((sku_id, units)),
        }
    }

    fn leave_out_what_is_too_large(&mut self) {
        let left_out = &mut self.left_out;
        self.documents.retain(|document| {
            let lines = document.lines.len();
            let too_many = document.lines.iter().find(|(_, units)| *units > i64::from(MAX_LINE_QUANTITY));
            let reason = match too_many {
                _ if lines > MAX_ORDER_LINES => {
                    format!("it has more than {MAX_ORDER_LINES} lines, which is what an order takes at most")
                }
                Some((sku_id, units)) => {
                    format!("it asks for {units} of {sku_id}; a line takes at most {MAX_LINE_QUANTITY}")
                }
                None => return true,
            };
            left_out.push(format!("invoice {}: {reason}", document.number));
            false
        });
    }

    /// The same orders, with every line of a sale as an order of its own where the invoice stood.
    #[must_use]
    pub fn by_line(self) -> Self {
        let split = |document: Document| -> Vec<Document> {
            if document.kind != Kind::Sale || document.lines.len() == 1 {
                return vec![document];
            }
            let Document { number, customer, kind, lines } = document;
            let of_line = |(number_of_line, line)| Document {
                number: format!("{number}/{number_of_line}"),
                customer: customer.clone(),
                kind,
                lines: vec![line],
            };
            (1..).zip(lines).map(of_line).collect()
        };
        Self { documents: self.documents.into_iter().flat_map(split).collect(), ..self }
    }

    /// For every SKU of the file the units that are enough for all its sales and corrections, whatever comes back.
    pub fn enough_for_all(&self) -> HashMap<SkuId, u64> {
        let mut enough = HashMap::new();
        for document in &self.documents {
            for (sku_id, units) in &document.lines {
                let needed = if document.kind == Kind::Cancellation { 0 } else { units.unsigned_abs() };
                *enough.entry(sku_id.clone()).or_default() += needed;
            }
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(text: &str) -> Vec<Document> {
        parse(text.as_bytes()).unwrap().documents
    }

    fn document(number: &str, kind: Kind, customer: &str, lines: &[(&str, i64)]) -> Document {
        let lines = lines.iter().map(|(sku, units)| (SkuId::new(sku).unwrap(), *units)).collect();
        Document { number: number.to_owned(), customer: BuyerId::new(customer).ok(), kind, lines }
    }

    #[test]
    fn an_invoice_is_one_order_wherever_its_rows_stand() {
        let text = "invoice_no,stock_code,quantity,customer_id\n\
            1,a,2,7\n1,b c,1,7\n2,a,-3,\nC3,a,-1,7\n1,a,5,7\n2,a,-4,\n";
        let expected = [
            document("1", Kind::Sale, "7", &[("a", 7), ("b c", 1)]),
            document("2#3", Kind::Correction, "", &[("a", -3)]),
            document("C3", Kind::Cancellation, "7", &[("a", 1)]),
            document("2#6", Kind::Correction, "", &[("a", -4)]),
        ];
        assert_eq!(documents(text), expected);
        let by_line = parse(text.as_bytes()).unwrap().by_line();
        let first =
            [document("1/1", Kind::Sale, "7", &[("a", 7)]), document("1/2", Kind::Sale, "7", &[("b c", 1)])];
        assert_eq!((&by_line.documents[..2], &by_line.documents[2..]), (&first[..], &expected[1..]));
        assert_eq!(by_line.enough_for_all(), parse(text.as_bytes()).unwrap().enough_for_all());
        let enough = parse(text.as_bytes()).unwrap().enough_for_all();
        assert_eq!(enough[&SkuId::new("a").unwrap()], 14);
    }

    #[test]
    fn columns_may_stand_in_any_order_and_among_others() {
        let text = "\u{feff}country, quantity ,customer_id,stock_code,invoice_no\r\nUK,2,7,\"a,b\",1\r\n";
        assert_eq!(documents(text), [document("1", Kind::Sale, "7", &[("a,b", 2)])]);
    }

    #[test]
    fn a_bad_row_is_named_and_the_rest_goes_on() {
        let text = "invoice_no,stock_code,quantity,customer_id\n\
            1,a,x,\n1,a,0,\n1,,1,\n,a,1,\n1,a\nC1,a,1,\n1,a,99999999999,\n1,a,1,7\n";
        let file = parse(text.as_bytes()).unwrap();
        assert_eq!((file.rows, file.documents.len()), (8, 1));
        let lines: Vec<_> = file.left_out.iter().map(|why| why.split_once(": ").unwrap().0).collect();
        assert_eq!(lines, ["line 2", "line 3", "line 4", "line 5", "line 6", "line 7", "line 8"]);
        assert_eq!(file.left_out[0], "line 2: its quantity \"x\" is not a whole number");
        let bytes = b"invoice_no,stock_code,quantity,customer_id\n1,\xff,1,7\n2,a,1,7\n";
        let file = parse(&bytes[..]).unwrap();
        assert_eq!((file.left_out.len(), file.documents.len()), (1, 1));
    }

    #[test]
    fn a_missing_column_is_named() {
        let error = parse("invoice_no,stock_code,customer_id\n".as_bytes()).unwrap_err();
        assert!(error.contains("`quantity`"), "{error}");
    }

    #[test]
    fn an_invoice_that_is_too_large_is_named_and_left_out() {
        let mut text = String::from("invoice_no,stock_code,quantity,customer_id\n2,a,1,7\n");
        for line in 0..=MAX_ORDER_LINES {
            text.push_str(&format!("1,s{line},1,7\n"));
        }
        let file = parse(text.as_bytes()).unwrap();
        assert_eq!(file.documents.len(), 1);
        assert_eq!(
            file.left_out,
            ["invoice 1: it has more than 1000 lines, which is what an order takes at most"]
        );
    }
}
