//! Header compression: the RFC's own examples, what is refused, and the oracle.

use proptest::prelude::*;

use super::testing::{Coding, Encoder, Form, huffman};
use super::*;

type Field = (Vec<u8>, Vec<u8>);

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<Field>, HpackError> {
    let mut fields = Vec::new();
    decoder.decode(block, |name, value| fields.push((name.to_vec(), value.to_vec())))?;
    Ok(fields)
}

fn fresh(block: &[u8]) -> Result<Vec<Field>, HpackError> {
    decode(&mut Decoder::default(), block)
}

fn octets(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(pair).collect()
}

fn lines(fields: &[Field]) -> Vec<String> {
    let text = |text: &[u8]| String::from_utf8(text.to_vec()).unwrap();
    fields.iter().map(|(name, value)| format!("{}: {}", text(name), text(value))).collect()
}

/// RFC 7541 C.3 and C.4: the same three requests, without and with Huffman codes.
#[test]
fn the_requests_of_the_rfc_are_decoded() {
    let plain = [
        "828684410f7777772e6578616d706c652e636f6d",
        "828684be58086e6f2d6361636865",
        "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
    ];
    let coded = [
        "828684418cf1e3c2e5f23a6ba0ab90f4ff",
        "828684be5886a8eb10649cbf",
        "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
    ];
    let authority = ":authority: www.example.com";
    for blocks in [plain, coded] {
        let mut decoder = Decoder::default();
        let mut next = |hex| lines(&decode(&mut decoder, &octets(hex)).unwrap());
        let start = [":method: GET", ":scheme: http", ":path: /", authority];
        assert_eq!(next(blocks[0]), start);
        assert_eq!(next(blocks[1])[3..], [authority, "cache-control: no-cache"]);
        let third = [":method: GET", ":scheme: https", ":path: /index.html", authority];
        let fields = next(blocks[2]);
        assert_eq!(fields[..4], third);
        assert_eq!(fields[4], "custom-key: custom-value");
        assert_eq!(decoder.table.size_bytes(), 164);
    }
}

/// RFC 7541 C.6: answers in a table of 256 bytes, which must drop entries.
#[test]
fn the_answers_of_the_rfc_drop_the_oldest_entries() {
    let mut decoder = Decoder::default();
    let mut next = |hex| lines(&decode(&mut decoder, &octets(hex)).unwrap());
    let first = "3fe101 488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff\
                 6e919d29ad171863c78f0b97c8e9ae82ae43d3";
    let date = |second| format!("date: Mon, 21 Oct 2013 20:13:{second} GMT");
    let location = "location: https://www.example.com";
    let private = "cache-control: private";
    assert_eq!(next(first), [":status: 302", private, &date(21), location]);
    assert_eq!(next("4883640effc1c0bf"), [":status: 307", private, &date(21), location]);
    let third = "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f\
                 2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007";
    let fields = next(third);
    assert_eq!(fields[..2], [":status: 200", private]);
    assert_eq!(fields[2..4], [date(22).as_str(), location]);
    let cookie = "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
    assert_eq!(fields[4..], ["content-encoding: gzip", cookie]);
    assert_eq!(decoder.table.size_bytes(), 215);
}

#[test]
fn each_octet_has_the_oracles_huffman_code() {
    for octet in 0..=u8::MAX {
        let text = [octet, b'a', octet];
        let coded = huffman(&text);
        let mut decoded = Vec::new();
        huffman::decode(&coded, &mut decoded).unwrap();
        assert_eq!(decoded, text);
        let oracle = loona_hpack::huffman::HuffmanDecoder::new().decode(&coded);
        assert_eq!(oracle.unwrap(), text);
    }
}

#[test]
fn bad_huffman_strings_are_refused() {
    let bad = |coded: &[u8]| huffman::decode(coded, &mut Vec::new()).unwrap_err();
    // A whole octet of padding; padding of zeros; a code that is cut; the end of the string.
    for coded in [&[0xff][..], &[0x18], &[0x1f, 0xff], &[0xff, 0xe0], &[0xff; 4], &[0xff; 9]] {
        assert_eq!(bad(coded), HpackError::BadHuffman, "{coded:x?}");
    }
    assert_eq!(huffman::decode(&[], &mut Vec::new()), Ok(()));
}

#[test]
fn each_malformed_block_has_its_reason() {
    for (hex, reason) in [
        ("80", HpackError::BadIndex),
        ("be", HpackError::BadIndex),
        ("7f0000", HpackError::BadIndex),
        ("ff", HpackError::Truncated),
        ("3f", HpackError::Truncated),
        ("40", HpackError::Truncated),
        ("4001", HpackError::Truncated),
        ("400161", HpackError::Truncated),
        ("4001610261", HpackError::Truncated),
        ("ffffffffffff00", HpackError::IntegerTooLong),
        ("ff808080808000", HpackError::IntegerTooLong),
        ("007f808080808000", HpackError::IntegerTooLong),
        ("000161ffffffff7f", HpackError::Truncated),
        ("00016181ff", HpackError::BadHuffman),
        ("8220", HpackError::BadSizeUpdate),
    ] {
        assert_eq!(fresh(&octets(hex)), Err(reason), "{hex}");
    }
    assert_eq!(fresh(&octets("3fe1ff03")), Ok(vec![]), "64 KiB");
    assert_eq!(fresh(&octets("3fe0ffffff0f")), Ok(vec![]), "2^32 - 1");
    assert_eq!(fresh(&octets("20 3fe11f 82")).map(|fields| fields.len()), Ok(1));
}

#[test]
fn a_table_is_never_larger_than_its_size() {
    let mut decoder = Decoder::default();
    let mut encoder = Encoder::default();
    let value = [b'v'; 700];
    for round in 0..100_usize {
        let name = format!("name-{round}");
        encoder.field(name.as_bytes(), &value[..round * 7], Form::Added, Coding::Raw);
        decode(&mut decoder, &encoder.take()).unwrap();
        assert!(decoder.table.size_bytes() <= 4096);
    }
    assert!(decoder.table.size_bytes() > 2048, "entries are kept");
    encoder.resize(100);
    encoder.field(b"a", b"b", Form::Added, Coding::Raw);
    assert_eq!(decode(&mut decoder, &encoder.take()).map(|fields| fields.len()), Ok(1));
    assert_eq!(decoder.table.size_bytes(), 34);
    // Larger than the table: it is a field, and the table is empty.
    encoder.field(b"a", &value, Form::Added, Coding::Raw);
    assert_eq!(decode(&mut decoder, &encoder.take()).map(|fields| fields.len()), Ok(1));
    assert_eq!(decoder.table.size_bytes(), 0);
    assert_eq!(decode(&mut decoder, &[0xbe]), Err(HpackError::BadIndex));
}

#[test]
fn a_long_entry_that_is_named_again_and_again_is_refused_early() {
    let mut encoder = Encoder::default();
    encoder.field(b"a", &[b'x'; 4000], Form::Added, Coding::Raw);
    let mut block = encoder.take();
    block.resize(32_000, 0xbe);
    let mut shown = 0;
    let result = Decoder::default().decode(&block, |_, value| shown += value.len());
    assert_eq!(result, Err(HpackError::ListTooLarge));
    assert!(shown <= LIST_BYTES_MAX);
}

fn any_form() -> impl Strategy<Value = Form> {
    prop_oneof![
        4 => Just(Form::Shortest),
        2 => Just(Form::Added),
        1 => Just(Form::Plain),
        1 => Just(Form::Never),
    ]
}

fn any_coding() -> impl Strategy<Value = Coding> {
    prop_oneof![Just(Coding::Raw), Just(Coding::Huffman)]
}

/// Few names and values, so that they come again; some of the static table.
fn any_text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => "(:path|:authority|cookie|a|b|/|)".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..40),
        1 => prop::collection::vec(any::<u8>(), 900..1100),
    ]
}

proptest! {
    // The oracle takes some 0.1 ms for each Huffman string in a release build, and 2 ms in a test.
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever is encoded comes back, from here and from the oracle, over many blocks.
    #[test]
    fn fields_come_back_as_they_were_encoded(
        blocks in prop::collection::vec(
            (
                prop::option::of(0..9000_usize),
                prop::collection::vec((any_text(), any_text(), any_form(), any_coding()), 1..8),
            ),
            1..12,
        ),
    ) {
        let mut encoder = Encoder::default();
        let mut decoder = Decoder::default();
        let mut oracle = loona_hpack::Decoder::new();
        for (size, fields) in blocks {
            if let Some(size) = size {
                encoder.resize(size);
            }
            for (name, value, form, coding) in &fields {
                encoder.field(name, value, *form, *coding);
            }
            let block = encoder.take();
            let fields: Vec<Field> =
                fields.into_iter().map(|(name, value, ..)| (name, value)).collect();
            prop_assert_eq!(decode(&mut decoder, &block), Ok(fields.clone()));
            prop_assert_eq!(oracle.decode(&block), Ok(fields));
        }
    }
}
