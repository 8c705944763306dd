import org.apache.lucene.search.TopDocs;

/** Lucene 9: the total is a field. */
final class Totals {
  static long of(TopDocs found) {
    return found.totalHits.value;
  }

  private Totals() {}
}
