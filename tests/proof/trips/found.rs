//! What round trips have found, as they printed it: each is tried again.

use super::edit::{Bytes, Edit, Meta, Piece, Pieces, Thing};
use super::trip::{Counts, How, Trip};
use crate::support::needs::needs;

#[test]
fn a_hole_comes_back_where_the_attributes_of_the_file_take_as_many_blocks() {
    needs!("root");
    let file = Thing::File(Pieces(vec![Piece::Hole(1), Piece::Random(0, 4096)]));
    let large = (Bytes(b"user.large".to_vec()), Bytes(vec![1; 2000]));
    let meta = Meta { mode: 0o644, xattrs: vec![large], ..Meta::default() };
    let edits = vec![(0, Edit::Make(0, Bytes(b"a".to_vec()), file, meta))];
    let trip = Trip { edits, is_gentle: false, verifies: false };
    assert_eq!(trip.go(How::Whole, &mut Counts::new()), Ok(()));
}
